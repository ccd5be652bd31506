"""What the cells of a run say beyond its means: signs of failure, and which clients should fine-tune at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from lpft.evaluation.diagnostics import Diagnostic, find_signatures
from lpft.evaluation.recommend import KEEP, Advice, advise
from lpft.reporting.results import MethodResult, methods_of, read_history
from lpft.storage.run import Run

FEW = 5
"""So many clients are named in one line."""


def signatures_of(run: Run, results: Sequence[MethodResult]) -> list[Diagnostic]:
    """Look for every sign of failure; a global model that came from elsewhere is not judged."""
    histories = {
        seed: [row.get("val_accuracy") for row in history]
        for seed in sorted({result.seed for result in results})
        if (history := read_history(run.global_file(seed, "history.csv")))
    }
    return find_signatures([cell for result in results for cell in result.cells], histories)


def advice_of(results: Sequence[MethodResult]) -> list[Advice]:
    """Advise every client, in the order of clients; among equals the first method of the experiment."""
    found = advise((cell for result in results for cell in result.cells), methods_of(results))
    by_client = {advice.client: advice for advice in found}
    clients = results[0].clients if results else []
    return [by_client[client] for client in clients if client in by_client]


def grouped(signatures: Iterable[Diagnostic]) -> dict[str, list[Diagnostic]]:
    """Put signatures of one name together."""
    groups: dict[str, list[Diagnostic]] = {}
    for signature in signatures:
        groups.setdefault(signature.name, []).append(signature)
    return groups


def signature_lines(signatures: Iterable[Diagnostic]) -> list[str]:
    """Say in one line each what was found in the run, and for the clients that share a sign of failure."""
    lines = []
    for name, found in grouped(signatures).items():
        lines += told([signature for signature in found if signature.client is None], name)
        clients = list(dict.fromkeys(signature.client for signature in found if signature.client is not None))
        if clients:
            first = told([signature for signature in found if signature.client is not None][:1])[0]
            number = "1 client" if len(clients) == 1 else f"{len(clients)} clients"
            names = "" if len(clients) == 1 else f" ({', '.join(clients[:FEW])}{', ...' if len(clients) > FEW else ''})"
            lines.append(f"{name}: {number}{names}: {first}")
    return lines


def told(signatures: Iterable[Diagnostic], name: str = "") -> list[str]:
    """Say what was found, and where: once for what is the same with variants that differ only in what follows."""
    places: dict[tuple[str | None, int | None, str], list[str]] = {}
    for signature in signatures:
        places.setdefault((signature.client, signature.seed, signature.found), []).append(signature.where)
    lines = []
    for (*_, found), where in places.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        lines.append(": ".join(part for part in (name, where[0] + more, found) if part))
    return lines


def advice_line(advices: Sequence[Advice]) -> str:
    """Sum up the advice in one line; empty if there is none."""
    if not advices:
        return ""
    kept = sum(advice.advice == KEEP for advice in advices)
    blind = sum(advice.gain is None for advice in advices)
    line = f"personalize {len(advices) - kept} of {len(advices)} clients, keep the global model for {kept}"
    line += f" ({blind} without validation samples)" if blind else ""
    known = [advice for advice in advices if advice.test_advised is not None and advice.test_before is not None]
    if not known:
        return line
    advised, before = (fmean(getattr(a, name) for a in known) for name in ("test_advised", "test_before"))
    return f"{line}; on test data this gives Local {advised:.1f}% (global model {before:.1f}%)"
