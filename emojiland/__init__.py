"""How the embedded world of RPO is drawn and its models are trained. Never imported by rpo."""

import rpo  # noqa: F401 # before diffusers and its companions: it lowers their voices
