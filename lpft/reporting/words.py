"""A run in words: what was done, how its methods work, and which settings are nobody's but ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PAPER_EPOCHS, PAPER_SEEDS = 15, 3
TOLD = ("epochs", "lp_epochs")
"""Settings that the description of a method tells anyway."""

Settings = Mapping[str, Any]

TERMS = {
    "Local": "A client's own model on its own test set, mean over clients: what personalization is for.",
    "Global": "A client's own model on the test sets of all clients, its own included, mean over clients: what it still"
    " knows of the rest of the world.",
    "others": "The same without the client's own test set.",
    "worst": "A client's own model on the other client's test set that suits it least, mean over clients.",
    "average3": "The mean of Local, Global and worst, from which the column Average of the paper's Table 2 follows.",
    "distortion": "How far the features (the input of the last layer) moved from the global model's: mean distance over"
    " the client's test samples. Zero if only the last layer was trained.",
    "hurt": "Share of clients whose own model is worse at home than the global model.",
    "passes": "Training cost: forward and backward passes of single samples, all clients together. A forward pass alone"
    " counts a third, training a last layer on stored features nothing (on augmented images there are none).",
    "seconds": "Wall-clock time of training and evaluation, all clients together.",
    "n": "Number of seeds. Behind ± is the standard deviation over them.",
}
"""What the columns of the comparison mean."""

SENTENCES = {
    "EarlyStoppedFT": "Full fine-tuning, of which the epoch with the best validation accuracy is kept",
    "ProximalFT": "Full fine-tuning with a pull back to the global model",
    "SparseFT": "Full fine-tuning of the few parameters that matter most for the local data",
    "SoupFT": "Several full fine-tunings, whose parameters are averaged",
    "LSSFT": "Local superior soups: models are fine-tuned one after the other, each with those before, and averaged",
}
"""What the methods of other classes do, by the name of the class."""

ADVICE_RULE = (
    "Decided by validation data: a client is to use the method with the largest gain among those that beat the global"
    " model by more than one standard error (paired, Agresti and Min 2005); if there is none, it keeps the global one."
    " Of equal methods it is the first one of the experiment. Test accuracy is here to judge the advice by; it never"
    " chooses. With many methods one of them is ahead by chance more easily, and methods that use validation data"
    " themselves look better on it than they are."
)


def what_was_done(config: Mapping[str, Any], num_clients: int, seeds: Sequence[int]) -> str:
    """Tell the experiment in a few sentences, as far as the configuration says."""
    federation, budget = _section(config, "federation"), _section(config, "personalization").get("epochs")
    network = _class_name(config.get("network"))
    model = f"one model ({network})" if network else "one model"
    clients = "One client has" if num_clients == 1 else f"{num_clients} clients share"
    if federation.get("init"):
        trained = f"{clients} {model}, which was given to start with."
    elif federation.get("rounds"):
        rounds = federation["rounds"]
        trained = f"{clients} {model}, trained together by federated averaging for {_count(rounds, 'round')}."
    else:
        trained = f"{clients} {model}."
    epochs = f" for {_count(budget, 'epoch')}" if budget else ""
    tuned = f"Then every client fine-tuned a copy of it on its own data{epochs}, once with each method below."
    listed = ", ".join(map(str, seeds))
    repeated = f"All of it was repeated with {len(seeds)} seeds ({listed})." if len(seeds) > 1 else f"Seed: {listed}."
    return f"{trained} {tuned} {repeated}"


def headline(summary: Sequence[Mapping[str, Any]], reference: str | None) -> str:
    """Tell the result in one sentence: where local and global accuracy went, from the lowest to the highest method.

    Args:
        summary: rows of summary.csv.
        reference: the method that is the global model itself; None if there is none.

    >>> means = {"none": (80.0, 80.0), "ft": (90.0, 75.0)}
    >>> metrics = ("local", "global_all")
    >>> rows = [{"method": m, "metric": k, "mean": v} for m in means for k, v in zip(metrics, means[m], strict=True)]
    >>> headline(rows, "none").partition(";")[0]
    "On their own test sets, the clients' models reach 90.0% (ft), the global model 80.0%"
    """
    means: dict[str, dict[str, float]] = {"local": {}, "global_all": {}}
    for row in summary:
        if row["metric"] in means and row["mean"] is not None:
            means[row["metric"]][row["method"]] = row["mean"]
    ends = {}
    for metric, by_method in means.items():
        own = sorted((mean, method) for method, mean in by_method.items() if method != reference)
        if not own:
            return ""
        (low, lowest), (high, highest) = own[0], own[-1]
        spread = f"{low:.1f}% ({lowest}) to {high:.1f}% ({highest})" if len(own) > 1 else f"{low:.1f}% ({lowest})"
        before = by_method.get(reference) if reference else None
        ends[metric] = spread + (f", the global model {before:.1f}%" if before is not None else "")
    return (
        f"On their own test sets, the clients' models reach {ends['local']}; on the test sets of all clients together"
        f" {ends['global_all']}."
    )


def describe_method(method: str, config: Mapping[str, Any]) -> str:
    """Say in one line what a method does, from its class and its settings."""
    told = _describe(_section(config, "methods").get(method), config)
    unlike = _unlike(method, config)
    return f"{told} {unlike}" if unlike else told


def describe_family(family: str, values: Sequence[Mapping[str, Any]], methods: Sequence[str], config: Settings) -> str:
    """Say in one line what a method does, and which of its settings were swept.

    Args:
        family: the method's name.
        values: the swept settings of every variant.
        methods: the variants.
        config: the resolved experiment.
    """
    settings = dict(_section(config, "methods").get(methods[0]) or {})
    swept = {key: list(dict.fromkeys(str(each[key]) for each in values if key in each)) for key in values[0]}
    settings["init_args"] = {key: value for key, value in _section(settings, "init_args").items() if key not in swept}
    if "lp_epochs" in swept and _class_name(settings) == "LPFT":
        told = "Linear probing of the last layer, then full fine-tuning for the rest of the epochs."
    else:
        told = _describe(settings, config)
    listed = "; ".join(f"{key} = {', '.join(found)}" for key, found in swept.items())
    return f"{told} Swept: {listed}."


def _unlike(method: str, config: Settings) -> str:
    """Say which settings differ from those of the first method of the same class that is named like it, or at all."""
    methods = _section(config, "methods")
    mine = methods.get(method)
    same = [name for name in methods if name != method and _class_name(methods[name]) == _class_name(mine)]
    named = [name for name in same if method.startswith(f"{name}_")]
    if not named or not isinstance(mine, Mapping):
        return ""
    other = max(named, key=len)
    own, base = dict(flat(_section(mine, "init_args"))), dict(flat(_section(methods[other], "init_args")))
    changed = [f"{key} = {own.get(key)}" for key in own | base if own.get(key) != base.get(key) and key not in TOLD]
    return f"Unlike {other}: {', '.join(changed)}." if changed else ""


def _describe(settings: Any, config: Settings) -> str:
    kind = _class_name(settings)
    own = _section(settings, "init_args") if isinstance(settings, Mapping) else {}
    budget = _section(config, "personalization").get("epochs")
    if kind == "NoFineTuning":
        return "No fine-tuning: every client keeps the global model."
    if kind == "FT":
        return _describe_ft(own.get("epochs") or budget)
    if kind == "LPFT":
        return _describe_lpft(own.get("lp_epochs", 5), own.get("epochs") or budget, own.get("lp_solver") == "logreg")
    listed = ", ".join(f"{key} = {value}" for key, value in flat(own))
    if kind in SENTENCES:
        return f"{SENTENCES[kind]}{f' ({listed})' if listed else ''}."
    return f"{kind}{f' ({listed})' if listed else ''}." if kind else ""


def settings_not_from_the_paper(config: Mapping[str, Any], num_seeds: int) -> list[tuple[str, str, str]]:
    """List the settings that arXiv:2511.12695 does not give, or gives otherwise.

    The paper fixes federated averaging, 15 epochs of fine-tuning from the global model with its head, and three seeds;
    its other settings stand in an appendix that was not at hand.

    Returns:
        Dotted key, value, and a remark where the paper is known to differ.
    """
    rows = []
    for section in ("data", "augment", "network", "federation"):
        rows += [(f"{section}.{key}", str(value), "") for key, value in flat(_section(config, section))]
    for key, value in flat(_section(config, "personalization")):
        if key == "epochs":
            if value != PAPER_EPOCHS:
                rows.append((f"personalization.{key}", str(value), f"the paper uses {PAPER_EPOCHS}"))
        elif key not in ("eval_every", "save_models", "clients_per_stack"):
            rows.append((f"personalization.{key}", str(value), ""))
    for method, settings in _section(config, "methods").items():
        rows += [(f"methods.{method}.{key}", str(value), "") for key, value in flat(_section(settings, "init_args"))]
    if num_seeds != PAPER_SEEDS:
        rows.append(("seeds", str(num_seeds), f"the paper uses {PAPER_SEEDS}"))
    rows = [row for row in rows if row[1] not in ("False", "keep") and not row[0].endswith(".dampening")]
    silent = ("federation.clients_per_stack", "federation.init", "data.init_args.root", "data.init_args.cache_dir")
    return [(key.replace(".init_args.", "."), *rest) for key, *rest in rows if key not in silent]  # type: ignore[misc]


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings with dotted keys; what is None or empty is left out.

    >>> dict(flat({"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}}, "init": None}))
    {'optimizer.class_path': 'SGD', 'optimizer.init_args.lr': 0.1}
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _describe_ft(epochs: int | None) -> str:
    return "Full fine-tuning: all layers" + (f", {_count(epochs, 'epoch')}." if epochs else ".")


def _describe_lpft(lp_epochs: int | None, epochs: int | None, solved: bool) -> str:
    if lp_epochs == 0:
        told = _describe_ft(epochs)
        return f"A last layer by logistic regression, then f{told[1:]}" if solved else told
    if lp_epochs is None or lp_epochs == epochs:
        whole = f", {_count(epochs, 'epoch')}" if epochs else ""
        solver = ", solved for by logistic regression" if solved else whole
        return f"Linear probing: only the last layer{solver}; the features stay the global model's."
    rest = f"all layers for the other {epochs - lp_epochs}" if epochs else "all layers for the rest"
    if solved:
        return f"A last layer by logistic regression in place of {_count(lp_epochs, 'epoch')}, {rest}."
    return f"Linear probing, then full fine-tuning: only the last layer for {_count(lp_epochs, 'epoch')}, {rest}."


def _section(config: Any, name: str) -> Mapping[str, Any]:
    section = config.get(name) if isinstance(config, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _class_name(settings: Any) -> str:
    path = settings.get("class_path") if isinstance(settings, Mapping) else settings
    return str(path).rpartition(".")[2] if path else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
