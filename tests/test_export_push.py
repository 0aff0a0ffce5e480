"""The command, and what it uploads or why it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from exporting import Trained, copied
from huggingface_hub import errors
from jobs import contents

from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.exports.export import check_push, push


def test_the_command(
    adapter: Callable[..., Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(adapter(), tmp_path)
    out = tmp_path / "für ComfyUI"
    command = ["export", str(run.path), "--to", "comfyui", "--out", str(out), "--dtype", "bf16"]
    assert cli.run(command) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(contents(out)) == ["README.md", "dog-rex-1.safetensors"]
    assert cli.run(command) == cli.WRONG_INPUT
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


class Hub:
    """huggingface_hub's HfApi, as far as it is used; `fails` says which call raises what."""

    def __init__(self, fails: dict[str, Exception] | None = None) -> None:
        self.fails, self.calls = fails or {}, []  # type: ignore[var-annotated]

    def _called(self, name: str, **given: Any) -> None:
        self.calls.append((name, given))
        if name in self.fails:
            raise self.fails[name]

    def whoami(self) -> None:
        self._called("whoami")

    def create_repo(self, repo: str, **given: Any) -> str:
        self._called("create_repo", repo=repo, **given)
        return f"hub/{repo}"

    def upload_folder(self, **given: Any) -> None:
        self._called("upload_folder", **given)


def test_push_makes_a_private_repository(
    adapter: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copied(adapter(), tmp_path)
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    out = tmp_path / "mine"
    command = ["export", str(run.path), "--to", "lora", "--out", str(out)]
    assert cli.run([*command, "--push", "me/my-dog"]) == 0
    assert capsys.readouterr().out == f"{out}\nhub/me/my-dog\n"
    made, sent = (next(c for n, c in hub.calls if n == name) for name in CALLS)
    assert made == {"repo": "me/my-dog", "private": True, "exist_ok": False}
    assert (sent["repo_id"], sent["folder_path"]) == ("me/my-dog", str(out))


CALLS = ("create_repo", "upload_folder")


def refused(status: int) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return errors.HfHubHTTPError("no", response=response)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("whoami", errors.LocalTokenNotFoundError(), "not logged in.*hf auth login"),
        ("whoami", refused(401), "does not accept the login"),
        ("whoami", errors.OfflineModeIsEnabled("x"), "switched off by HF_HUB_OFFLINE"),
        ("whoami", ConnectionError("no route"), "cannot be reached"),
        ("whoami", errors.HTTPError("refused"), "cannot be reached"),
        ("create_repo", refused(403), "may not write there.*hf upload me/my-dog"),
        ("create_repo", refused(409), "exists already; nothing there is overwritten"),
        ("upload_folder", refused(500), "hf upload me/my-dog"),
    ],
)
def test_push_that_fails_is_one_line(
    tmp_path: Path, call: str, error: Exception, words: str
) -> None:
    hub = Hub({call: error})
    with pytest.raises(UserError, match=words) as caught:
        push(tmp_path, "me/my-dog", hub)
    assert str(caught.value).startswith("--push me/my-dog: ")
    assert "\n" not in str(caught.value)
    assert hub.calls[-1][0] == call


@pytest.mark.parametrize("name", ["my-dog", "a/b/c", "me/my dog", "me/", "/x"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    hub = Hub()
    with pytest.raises(UserError, match="must be ORG/NAME"):
        check_push(name, hub)
    assert hub.calls == []


def test_a_failed_login_stops_before_the_export(
    adapter: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copied(adapter(), tmp_path)
    hub = Hub({"whoami": errors.LocalTokenNotFoundError()})
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    command = ["export", str(run.path), "--to", "lora", "--push", "me/my-dog"]
    assert cli.run(command) == cli.WRONG_INPUT
    assert "not logged in" in capsys.readouterr().err
    assert not (run.path / "export").exists()
