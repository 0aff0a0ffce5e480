"""How the embedded world of RPO is drawn and its models are trained. Never imported by rpo."""
