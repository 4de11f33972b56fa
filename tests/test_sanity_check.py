"""sanity_check starts, trains and says how far it came."""

import pytest


@pytest.mark.slow
def test_table_and_exit_code(run_script):
    code, out, error = run_script("training.deepgps.sanity_check", "paper", "--seconds", "3")
    head, _, row = out.splitlines()
    assert head.startswith("| model | parameters | steps |")
    name, _, steps, _, right, *_ = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "paper" and int(steps) > 1
    assert code == (0 if float(right.strip("%")) >= 95 else 1), error


def test_unknown_variant(run_script):
    code, _, error = run_script("training.deepgps.sanity_check", "condition", "papers")
    assert code == 2 and "unknown variant 'papers': choose from condition, paper" in error
