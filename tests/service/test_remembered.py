from server.service.remembered import Remembered


def test_made_once() -> None:
    remembered, made = Remembered[int](10), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert [remembered.get(("a", "b"), make) for _ in range(3)] == [1, 1, 1]
    assert remembered.get(("ab",), make) == 2
    assert remembered.get(("b", "a"), make) == 3


def test_nothing_is_worth_remembering_too() -> None:
    remembered = Remembered[str | None](10)
    assert remembered.get("a", lambda: None) is None
    assert remembered.get("a", lambda: "made again") is None


def test_what_was_used_longest_ago_goes() -> None:
    remembered = Remembered[str](2)
    for name in ("a", "b", "a", "c"):
        remembered.get((name,), lambda: "old")
    assert [remembered.get((name,), lambda: "new") for name in ("a", "c", "b")] == ["old", "old", "new"]


def test_half_a_character_is_a_text_as_well() -> None:
    assert Remembered[int](2).get(("\ud83d",), lambda: 1) == 1
