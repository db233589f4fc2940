"""Which of timm's backbones are fast enough on this machine, before any of them is trained."""
