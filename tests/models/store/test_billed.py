"""What a run paid is found wherever it was booked, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.models.ledger.booking import billed_to, billed_to_bill, new_bill
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledger_file
from vl2v_deploy.models.store.billed import images_billed
from vl2v_deploy.recipe import HttpRecipe, load_recipe


def test_bill_of_a_run_counts_every_key_and_address_that_paid_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    teacher = load_recipe(write_vendor_recipe(tmp_path / "recipe", "http://127.0.0.1:9", images=2)).teacher
    assert isinstance(teacher, HttpRecipe)
    mine, other = new_bill(), new_bill()
    assert images_billed(mine, teacher, tmp_path) == 0
    accounts = [(teacher.host, teacher.key_env), (teacher.host, "OTHER_KEY"), ("127.0.0.1:10", None)]
    for number, account in enumerate(accounts):
        ledger = Ledger(ledger_file(*account), Budget(None, None))
        with billed_to("recipe"), billed_to_bill(mine):
            paid = ledger.reserve("t", images=10**number, texts=5, usd=0.1)
            ledger.settle(paid, images=10**number, texts=5, usd=0.1)
            ledger.lose(ledger.reserve("t", images=2 * 10**number, texts=0, usd=0.1))
        with billed_to("recipe"), billed_to_bill(other):
            ledger.reserve("t", images=4 * 10**number, texts=0, usd=0.1)
    assert images_billed(mine, teacher, tmp_path) == 333
    assert images_billed(other, teacher, tmp_path) == 444
