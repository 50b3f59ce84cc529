import hashlib

from server.service.originals import Originals, original_name


def test_a_text_is_found_by_its_sha256() -> None:
    originals = Originals(100)
    originals.put("é")
    name = hashlib.sha256("é".encode()).hexdigest()
    assert original_name("é") == name
    assert originals.get(name) == "é"
    assert originals.get("0" * 64) is None


def test_what_was_put_longest_ago_goes_first() -> None:
    originals = Originals(10)
    for text in ("aaaa", "bbbb", "aaaa", "cccc"):
        originals.put(text)
    kept = [text for text in ("aaaa", "bbbb", "cccc") if originals.get(original_name(text))]
    assert kept == ["aaaa", "cccc"]


def test_a_text_larger_than_all_room_is_not_kept() -> None:
    originals = Originals(10)
    originals.put("a" * 11)
    originals.put("a" * 10)
    assert originals.get(original_name("a" * 11)) is None
    assert originals.get(original_name("a" * 10)) == "a" * 10
    nowhere = Originals(0)
    nowhere.put("a")
    assert nowhere.get(original_name("a")) is None
