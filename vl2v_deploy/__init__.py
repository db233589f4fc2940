"""Distill a vision-language teacher into a small student, export it, and measure what was lost and saved.

Applications import `vl2v_deploy.client`; everything else is reached through the CLI `vl2v-deploy`.
"""

__version__ = "0.1.0"
