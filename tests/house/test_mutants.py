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
    untested = [
        fits._replace(tests=tests)
        for tests in (
            "sequence/test_masks_layout.py::test_that_is_gone",
            "sequence/test_masks_layout.py::test_causal_mask",  # how the name of one begins
            "test_that_is_gone.py",
            "decode/test_lossless.py -k 'follows_the_law and not that_is_gone'",
            "decode/test_lossless.py -k that_is_gone",
            "decode/test_lossless.py -x",
        )
    ]
    chosen = fits._replace(tests="decode/test_lossless.py -k 'follows_the_law and not maximal'")
    assert not mutants.faults(fits) and not mutants.faults(chosen)
    assert all(len(mutants.faults(mutant)) == 1 for mutant in (gone, often, same, *untested))
