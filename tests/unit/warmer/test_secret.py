"""The mounted Secret: the right keys, whole, and never repeated."""

from pathlib import Path

import pytest
from preheat_warmer.secret import Secret, WrongSecret, read_secret


def mounted(folder: Path, **keys: str) -> Path:
    for name, text in keys.items():
        (folder / name).write_text(text)
    return folder


def test_what_is_there_is_read(tmp_path: Path) -> None:
    folder = mounted(
        tmp_path, AWS_ACCESS_KEY_ID="id\n", AWS_SECRET_ACCESS_KEY="key", AWS_REGION="eu-west-1", other="x"
    )
    token, secret = read_secret(folder, "s3://bucket/x")
    assert token == ""
    assert secret == Secret(access_key_id="id", secret_access_key="key", region="eu-west-1")


def test_no_secret_is_nobody(tmp_path: Path) -> None:
    assert read_secret(tmp_path / "nowhere", "s3://bucket/x") == ("", Secret())


def test_a_password_may_hold_spaces_and_any_letter(tmp_path: Path) -> None:
    folder = mounted(tmp_path, username="jürgen", password="pass wörd")
    assert read_secret(folder, "oci://r.example/m:1")[1].password == "pass wörd"


@pytest.mark.parametrize(
    ("scheme", "keys", "word"),
    [
        ("s3", {"token": "s3cret"}, "AWS_ACCESS_KEY_ID"),
        ("gs", {"username": "u", "password": "s3cret"}, "AWS_ACCESS_KEY_ID, key.json, token"),
        ("oci", {"token": "s3cret"}, "username"),
        ("mlflow", {"TOKEN": "s3cret"}, "token"),
        ("s3", {"AWS_ACCESS_KEY_ID": "s3cret"}, "AWS_SECRET_ACCESS_KEY"),
        ("oci", {"password": "s3cret"}, "username"),
        ("s3", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s3cret b"}, "AWS_SECRET_ACCESS_KEY"),
        ("oci", {"username": "a", "password": "s3cret\x01"}, "password"),
    ],
)
def test_the_wrong_secret_is_told_and_not_repeated(
    tmp_path: Path, scheme: str, keys: dict[str, str], word: str
) -> None:
    with pytest.raises(WrongSecret) as caught:
        read_secret(mounted(tmp_path, **keys), f"{scheme}://r.example/m:1")
    assert word in str(caught.value)
    assert "s3cret" not in str(caught.value)
