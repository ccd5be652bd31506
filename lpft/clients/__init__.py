"""Stacks: the networks of many clients, trained and evaluated as one."""
