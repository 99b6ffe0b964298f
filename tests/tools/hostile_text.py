"""Hostile text: secrets in URLs, control characters of a terminal, formulas of a spreadsheet; and the properties that hold."""

import csv
import io
import re
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from tools.examples import examples

from inception_zoo import redaction
from inception_zoo.redaction import learn, redacted, safe
from inception_zoo.system.csv_files import read_rows, write_rows

SECRET = "correct-horse"
FORMS = {  # how a secret is written → text; {} is the secret
    "address": "s3://user:{}@bucket/x",
    "path": "s3:/user:{}@bucket/x",
    "absolute path": "/home/me/s3:/user:{}@bucket/x",
    "at sign": "https://user:a@{}@host/x",
    "slash": "https://user:a/{}@host/x",
    "colon": "https://user:a:{}@host/x",
    "hash": "https://user:a#{}@host/x",
    "no user": "redis://:{}@host:6379/0",
    "JSON": r"https:\/\/user:{}@host",
    "encoded address": "https%3A%2F%2Fuser%3A{}%40host",
    "dictionary": "{{'url': 'https://user:{}@host'}}",
    "AWS": "https://host/x?X-Amz-Signature={}",
    "AWS session": "https://host/x?a=b&X-Amz-Security-Token={}",
    "AWS key": "https://host/x?AWSAccessKeyId={}&Expires=1",
    "Azure": "https://host/x?sv=2024&sig={}",
    "OAuth": "https://host/x?access_token={}#top",
    "key of a dictionary": "{{'X-Amz-Signature': '{}'}}",
}
CONTROLS = {
    "title": "\x1b]0;x\x07",
    "title, 8 bits": "\x9d0;x\x9c",
    "colour": "\x1b[31m",
    "cursor": "\x1b[2J\x1b[1A",
    "CSI, 8 bits": "\x9b2J",
    "device": "\x1bPq\x1b\\",
    "return": "good\rbad",
    "backspace": "bad\b\b\bgood",
    "delete": "\x7f",
    "direction": "\u202egpj.exe",
    "isolate": "\u2066x\u2069",
    "zero width": "a\u200bb\ufeff",
    "line": "a\u2028b\u2029c\x85d",
    "surrogate": "\udc9b",
    "high surrogate": "\ud800",
}
NORMAL = ("Öl, Straße", "e\u0301", "日本語", "👨\u200d👩\u200d👧 🇩🇪", "نیم\u200cفاصله", "[x] :rocket:", "C:\\new")
FORMULAS = ("=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''-a")
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

texts = st.lists(st.sampled_from([*CONTROLS.values(), *FORMULAS, *NORMAL, "'", '"', ",", ";", "0.5", "\n"]), max_size=4)
hostile = st.one_of(
    texts.map("".join), st.text(st.characters(codec="utf-8") | st.sampled_from("\udc80\udcff\x1b\x9b=+-@'\t"), max_size=8)
)


@examples(200)
@given(hostile)
def any_text_is_harmless_on_a_terminal(text):
    shown = safe(text)
    assert not FORBIDDEN.search(shown) and safe(shown) == shown
    shown.encode()


@examples(200)
@given(st.lists(st.lists(hostile, min_size=1, max_size=3), max_size=3))
def any_cell_is_text_for_a_spreadsheet_and_is_read_as_it_was(rows):
    file = io.StringIO(newline="")
    write_rows(file, ["a", "=b"], rows)
    file.seek(0)
    assert list(read_rows(file)) == [["a", "=b"], *rows]
    file.seek(0)
    cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n\uff1d")) and not is_number(cell)]


@examples(200)
@given(st.sampled_from(sorted(FORMS)), st.text("abcXYZ019%:!$+", min_size=8, max_size=20))
def any_secret_of_an_address_is_removed(form, secret):
    assert secret not in redacted(FORMS[form].format(secret))


@examples(50)
@given(st.text("abcXYZ019", min_size=12, max_size=20))
def a_secret_that_was_typed_is_removed_from_every_other_form(secret):
    with patch.object(redaction, "_learned", set()):  # the tests after this one have the same process
        learn([f"data.root=s3://user:{secret}@bucket/x"])
        assert secret not in redacted(f'Invalid bucket name "user:{secret}@bucket", {secret}')


def is_number(text):
    try:
        float(text)
        return True
    except ValueError:
        return False


PROPERTIES = (
    any_text_is_harmless_on_a_terminal,
    any_cell_is_text_for_a_spreadsheet_and_is_read_as_it_was,
    any_secret_of_an_address_is_removed,
    a_secret_that_was_typed_is_removed_from_every_other_form,
)
