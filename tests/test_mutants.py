"""The mutants of mutants.py fit today's code: what they change is there once, and so are the tests that must see it."""

import mutants


def test_every_mutant_changes_one_place_and_names_its_tests():
    assert [fault for mutant in mutants.MUTANTS for fault in mutants.faults(mutant)] == []
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS) > 30


def test_a_mutant_that_does_not_fit_is_told():
    """Negative control."""
    fits = mutants.MUTANTS[0]
    gone = fits._replace(old="there is no such line")
    often = fits._replace(old="cache")
    same = fits._replace(new=fits.old)
    untested = fits._replace(tests="test_masks_layout.py::test_that_is_gone")
    assert not mutants.faults(fits)
    assert all(len(mutants.faults(mutant)) == 1 for mutant in (gone, often, same, untested))
