"""What is uploaded stays in the page's temporary folder, whatever its name says; no other file is handed out."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs gradio, of the extra `page`")

from fastapi.testclient import TestClient
from gradio.routes import App

from panoptic_segformer.web_page.building import build_page
from panoptic_segformer.web_page.serving import write_examples


@pytest.fixture
def client(tmp_path, monkeypatch) -> TestClient:
    """A client of a page whose temporary folder is tmp_path/a/b/page."""
    folder = tmp_path / "a/b/page"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    page = build_page(lambda _: None, title="Page", examples=write_examples(folder / "examples"))
    page.max_file_size = 1_000_000  # `launch` would set it.
    return TestClient(App.create_app(page))


@pytest.mark.parametrize("name", ["../../../x.png", "/etc/x.png", "..\\..\\x.png", "..", "a/../../../../x.png"])
def test_upload_lands_in_the_temporary_folder(client, tmp_path, name):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    reply = client.post("/gradio_api/upload", files={"files": (name, b"content", "image/png")})
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    if reply.status_code == 200:
        assert {Path(path).resolve() for path in reply.json()} == {path.resolve() for path in written}
    assert all(tmp_path / "a/b/page" in path.parents for path in written)
    assert not Path("/etc/x.png").exists()


def test_upload_of_a_plain_name_is_kept(client, tmp_path):
    (path,) = client.post("/gradio_api/upload", files={"files": ("x.png", b"content", "image/png")}).json()
    assert tmp_path / "a/b/page" in Path(path).parents
    assert Path(path).read_bytes() == b"content"


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../../../secret.txt", "{tmp}/secret.txt", "{tmp}/a/b/page/../../../secret.txt"]
)
def test_other_files_are_not_handed_out(client, tmp_path, path):
    (tmp_path / "secret.txt").write_text("classified")
    reply = client.get(f"/gradio_api/file={path.format(tmp=tmp_path)}")
    assert reply.status_code in (403, 404)
    assert "classified" not in reply.text
