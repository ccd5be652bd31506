"""How many clients' networks are trained and evaluated as one."""
