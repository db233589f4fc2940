"""report.json as a whole, and the number of its format."""

from __future__ import annotations

from typing import Literal

from vl2v_deploy.benchmarking.scenario import Strict
from vl2v_deploy.benchmarking.schema.concluded import Results
from vl2v_deploy.benchmarking.schema.given import CascadeTerms, Prices
from vl2v_deploy.benchmarking.schema.measured import Measurements

FORMAT: Literal[4] = 4


class Report(Strict):
    """report.json."""

    format: Literal[4] = FORMAT
    measurements: Measurements
    prices: Prices
    terms: CascadeTerms = CascadeTerms()
    results: Results
