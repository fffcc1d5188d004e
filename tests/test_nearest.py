"""The nearest of known names."""

from loratools.nearest import did_you_mean, nearest


def test_the_nearest_name_is_found_whatever_its_case_and_dashes() -> None:
    known = ["merge", "resize", "svd-extract"]
    assert nearest("SVD_EXTRACT", known) == "svd-extract"
    assert nearest("mrege", known) == "merge"


def test_of_names_that_are_not_alike_none_is_named() -> None:
    assert nearest("zzz", ["merge"]) is None
    assert did_you_mean("zzz", ["merge"]) == ""
