import json
from pathlib import Path
from typing import Any

import pytest

from scripts import audit

KNOWN: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found"}
FLAWED = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([KNOWN, UNKNOWN], 0, "1 packages looked up, 0 with a flaw, 1 unknown"),
        ([KNOWN, FLAWED], 1, "c 2: CVE-1, fixed in 3"),
        ([UNKNOWN], 0, "skipped: no advisory service reachable"),
        (None, 0, "skipped: no advisory service reachable"),
    ],
)
def test_what_is_said_of_a_report(
    packages: Any, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = None if packages is None else {"dependencies": packages}
    monkeypatch.setattr(audit, "asked", lambda *_: report)
    assert audit.main(["requirements/base.txt"]) == code
    assert words in capsys.readouterr().out


def test_a_service_that_cannot_be_asked_gives_no_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "python"
    tool.write_text("#!/bin/sh\necho Traceback; exit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tool))
    assert audit.asked("osv", ["x.txt"]) is None
    tool.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': [KNOWN]})}'\n")
    assert audit.asked("osv", ["x.txt"]) == {"dependencies": [KNOWN]}
