"""The audit of installed packages, with pip-audit and a real server in place of osv.dev."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from web_servers import serving

SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).parents[1] / "deploy" / "audit.py")
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)


def test_without_pip_audit_it_is_skipped_with_a_reason(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert audit.audit(str(tmp_path)) == []
    assert capsys.readouterr().out == "audit skipped: pip-audit is not installed; pip install pip-audit\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pip-audit") is None, reason="pip-audit is not installed")
@pytest.mark.parametrize("known", [True, False, None])
def test_known_vulnerabilities_are_named(known, tmp_path, capsys):
    folder = tmp_path / "planes-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: planes\nVersion: 1.0\n")
    flaw = {
        "id": "OSV-1", "summary": "a hole", "affected": [{
            "package": {"name": "planes", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }],
    }  # fmt: skip

    def answer(handler):
        body = json.dumps({"vulns": [flaw]} if known else {}).encode()
        handler.send_response(200 if known is not None else 503)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(answer) as (url, asked):
        found = audit.audit(str(tmp_path), "-s", "osv", "--osv-url", f"{url}/v1/query", "--cache-dir", str(tmp_path))
    assert asked
    assert found == (["planes 1.0: OSV-1, fixed in 1.1"] if known else [])
    said = capsys.readouterr().out
    assert said.startswith("audit skipped: " if known is None else "audit: 1 packages")
