"""Completion in a real bash, as ``geotile --install-completion`` sets it up."""

import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from helpers import cli

from geotile.cli.completion import _joined
from geotile.detectors import FAMILIES


@pytest.mark.parametrize(
    ("parts", "words", "cut"),
    [
        (["geotile", "det"], ["geotile", "det"], ""),
        (["geotile", "-O", "family", "=", "yo"], ["geotile", "-O", "family=yo"], "family="),
        (["geotile", "-O", "family", "="], ["geotile", "-O", "family="], "family="),
        (["geotile", "-O", "a", "=", "1", "-o", ""], ["geotile", "-O", "a=1", "-o", ""], ""),
        (["geotile", "s3", ":", "//b/x", "=", "1"], ["geotile", "s3://b/x=1"], "s3://b/x="),
        (["geotile", "http", ":", "//a/b"], ["geotile", "http://a/b"], "http:"),
    ],
)
def test_words_that_bash_cuts_are_joined(parts, words, cut):
    assert _joined(parts) == (words, cut)


def test_a_variable_of_the_shell_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("_GEOTILE_COMPLETE", "complete_bash")
    monkeypatch.delenv("COMP_WORDS", raising=False)
    assert "must be set with COMP_WORDS and COMP_CWORD" in cli(status=2).stderr
    monkeypatch.setenv("COMP_WORDS", "geotile")
    monkeypatch.setenv("COMP_CWORD", "one")
    assert "must be set with COMP_WORDS and COMP_CWORD" in cli(status=2).stderr


class Bash:
    """An interactive bash with the completion of geotile."""

    def __init__(self, home: Path):
        self.controller, terminal = pty.openpty()
        shown = [
            "bash",
            "-c",
            f"{Path(sys.executable).parent}/geotile --show-completion; true",
        ]  # the shell is its parent
        script = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        settings = ["enable-bracketed-paste off", "bell-style none", "show-all-if-ambiguous on", "page-completions off"]
        bound = "".join(f"bind 'set {each}'\n" for each in settings)
        (home / "rc").write_text(f"PS1='> '\n{bound}{script}")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"HOME": str(home), "PATH": path, "TERM": "dumb", "COLUMNS": "200"}
        command = ["bash", "--noprofile", "--rcfile", home / "rc", "-i"]
        self.process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=home, start_new_session=True
        )
        os.close(terminal)
        self._shown("> ")  # the prompt
        while termios.tcgetattr(self.controller)[3] & termios.ICANON:  # bash does not read characters yet
            time.sleep(0.01)

    def completed(self, line: str) -> str:
        """Return what is shown after a tab: the completed line, or what it may become."""
        os.write(self.controller, line.encode())
        self._shown(line)  # bash is reading
        os.write(self.controller, b"\t")
        os.write(self.controller, b"#END")
        shown = self._shown("#END")
        os.write(self.controller, b"\x15")  # discards the line
        return line + shown.removesuffix("#END")

    def _shown(self, end: str) -> str:
        """Return what is shown until it ends with a text."""
        shown, started = b"", time.monotonic()
        while not shown.endswith(end.encode()):
            assert time.monotonic() - started < 60, shown
            if select.select([self.controller], [], [], 1)[0]:
                shown += os.read(self.controller, 4096)
        return shown.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.controller)


@pytest.fixture
def bash(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    shell = Bash(tmp_path)
    yield shell
    shell.close()


@pytest.mark.slow
def test_bash_completes_commands_options_and_values(bash, tmp_path):
    (tmp_path / "scene.tif").touch()
    assert bash.completed("geotile pred").endswith("geotile predict ")
    assert bash.completed("geotile detect --tile-si").endswith("geotile detect --tile-size ")
    assert {"hann", "mean", "trim", "vote"} <= set(bash.completed("geotile predict --blend ").split())
    families = {name for name in FAMILIES if name.startswith("yolox")}
    assert families <= set(bash.completed("geotile detect -O family=yolox").split())
    assert bash.completed("geotile detect --merge greedy").endswith("--merge greedy-nmm ")
    assert bash.completed("geotile detect -o found.par").endswith("-o found.parquet ")
    assert bash.completed("geotile help trou").endswith("geotile help troubleshooting ")
    assert bash.completed("geotile help pred").endswith("geotile help predict ")
    assert bash.completed("geotile plan sce").endswith("geotile plan scene.tif ")
