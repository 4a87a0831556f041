"""Times: RFC 3339 with an offset, in 2020 or later, and never ahead of the server's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen_api import rfc3339
from tests.support import databases
from tests.support.contract import error_of
from tests.support.journeys import HASH, sign_in
from tests.support.mailbox import Mailbox

READ = {
    "2026-01-31T08:30:00Z": "2026-01-31T08:30:00.000000Z",
    "2026-01-31t08:30:00z": "2026-01-31T08:30:00.000000Z",
    "2026-01-31T08:30:00+00:00": "2026-01-31T08:30:00.000000Z",
    "2026-01-31T08:30:00-00:00": "2026-01-31T08:30:00.000000Z",
    "2026-01-31T08:30:00+05:30": "2026-01-31T03:00:00.000000Z",
    "2026-01-31T08:30:00-08:00": "2026-01-31T16:30:00.000000Z",
    "2026-01-01T00:00:00+23:59": "2025-12-31T00:01:00.000000Z",
    "2025-12-31T23:59:59-23:59": "2026-01-01T23:58:59.000000Z",
    "2024-02-29T23:59:59.9Z": "2024-02-29T23:59:59.900000Z",
    "2026-01-31T08:30:00.123Z": "2026-01-31T08:30:00.123000Z",
    "2026-01-31T08:30:00.123456Z": "2026-01-31T08:30:00.123456Z",
    # What is finer than a microsecond is cut off: a time is never moved ahead.
    "2026-01-31T08:30:00.123456999Z": "2026-01-31T08:30:00.123456Z",
    "2026-01-31T08:30:00.999999999999999999999999999999Z": "2026-01-31T08:30:00.999999Z",
    "2026-01-31T23:59:59.9999999Z": "2026-01-31T23:59:59.999999Z",
    "2020-01-01T00:00:00Z": "2020-01-01T00:00:00.000000Z",
    "2019-12-31T10:00:00-14:00": "2020-01-01T00:00:00.000000Z",
    "2020-01-01T14:00:00+14:00": "2020-01-01T00:00:00.000000Z",
}

NOT_RFC_3339 = [
    " ",
    "now",
    "0",
    "1767225600",
    "2026",
    "2026-01-31",
    "2026-01-31T08:30:00",
    "2026-01-31T08:30Z",
    "2026-01-31T08Z",
    "2026-01-31 08:30:00Z",
    "2026-01-31_08:30:00Z",
    "20260131T083000Z",
    "2026-W05-6T08:30:00Z",
    "2026W056T08:30:00Z",
    "2026-031T08:30:00Z",
    "2026-1-31T08:30:00Z",
    "2026-01-31T8:30:00Z",
    "+2026-01-31T08:30:00Z",
    "-2026-01-31T08:30:00Z",
    "12026-01-31T08:30:00Z",
    "2026-01-31T08:30:00.Z",
    "2026-01-31T08:30:00,5Z",
    "2026-01-31T08:30:00.5",
    "2026-01-31T08:30:00.-5Z",
    "2026-01-31T08:30:00 Z",
    "2026-01-31T08:30:00Z ",
    " 2026-01-31T08:30:00Z",
    "2026-01-31T08:30:00Z\n",
    "2026-01-31T08:30:00ZZ",
    "2026-01-31T08:30:00UTC",
    "2026-01-31T08:30:00+01",
    "2026-01-31T08:30:00+0100",
    "2026-01-31T08:30:00+1:00",
    "2026-01-31T08:30:00+01:00:00",
    "2026-01-31T08:30:00+01:00Z",
    "2026-01-31T08:30:00Z[Europe/Berlin]",
    "2026-01-31T08:30:00\u221201:00",
    "2026\u201101\u201131T08:30:00Z",
    "２０２６-01-31T08:30:00Z",
    "٢٠٢٦-٠١-٣١T٠٨:٣٠:٠٠Z",
    "2026-01-31T08:30:00.１Z",
    "Sat, 31 Jan 2026 08:30:00 GMT",
    "2026-01-31T08:30:00" + "." + "1" * 50_000,
]

NO_SUCH_TIME = [
    "0000-01-01T00:00:00Z",
    "2026-00-31T08:30:00Z",
    "2026-13-31T08:30:00Z",
    "2026-01-00T08:30:00Z",
    "2026-01-32T08:30:00Z",
    "2026-02-29T08:30:00Z",
    "2026-04-31T08:30:00Z",
    "2026-01-31T24:00:00Z",
    "2026-01-31T24:00:01Z",
    "2026-01-31T25:00:00Z",
    "2026-01-31T08:60:00Z",
    "2026-01-31T08:30:60Z",
    "2016-12-31T23:59:60Z",
    "2026-12-31T23:59:60Z",
    "2026-01-31T08:30:61Z",
    "2026-01-31T08:30:00+24:00",
    "2026-01-31T08:30:00-24:00",
    "2026-01-31T08:30:00+25:00",
    "2026-01-31T08:30:00+99:99",
    "2026-01-31T08:30:00+00:60",
    "2026-01-31T08:30:00-00:60",
    "2026-01-31T08:30:00+22:99",
]

TOO_EARLY = [
    "2019-12-31T23:59:59Z",
    "2019-12-31T23:59:59.999999999Z",
    "2020-01-01T00:00:00+14:00",
    "2020-01-01T00:00:00+00:01",
    "2019-12-31T23:58:59-00:01",
    "1970-01-01T00:00:00Z",
    "0999-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00-23:59",
]

AHEAD = [
    "2999-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59+23:59",
]


def start(client: FlaskClient, number: int, moment: str) -> dict[str, str]:
    """The answer to the start of a session of its own at `moment`."""
    answer = client.post("/v1/sessions/start", json={"session_id": f"s{number}", "started_at": moment})
    assert answer.status_code == 200, moment
    body: dict[str, str] = answer.get_json()
    return body


def end(client: FlaskClient, number: int, moment: str) -> dict[str, str]:
    """The answer to the end of a session of its own, without a start, at `moment`."""
    body = {"session_id": f"e{number}", "transcript_hash": HASH, "ended_at": moment}
    answer = client.post("/v1/sessions/end", json=body)
    assert answer.status_code == 200, moment
    ended: dict[str, str] = answer.get_json()
    return ended


def test_a_time_is_answered_in_utc_with_microseconds(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert {text: start(client, n, text)["started_at"] for n, text in enumerate(READ)} == READ
    assert {text: end(client, n, text)["ended_at"] for n, text in enumerate(READ)} == READ


@pytest.mark.parametrize(
    "moments", [NOT_RFC_3339, NO_SUCH_TIME, TOO_EARLY], ids=["not RFC 3339", "no such time", "too early"]
)
def test_any_other_time_is_refused_and_nothing_is_kept(
    client: FlaskClient, mailbox: Mailbox, database: str, moments: list[str]
) -> None:
    sign_in(client, mailbox)

    starts = {
        text: error_of(client.post("/v1/sessions/start", json={"session_id": "a", "started_at": text}))
        for text in moments
    }
    ends = {
        text: error_of(
            client.post("/v1/sessions/end", json={"session_id": "a", "transcript_hash": HASH, "ended_at": text})
        )
        for text in moments
    }

    assert starts == ends == dict.fromkeys(moments, (400, "invalid_timestamp"))
    assert databases.query(database, "select from sessions") == []


def test_a_time_ahead_of_the_server_becomes_the_servers(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    sign_in(client, mailbox)

    def server_time() -> str:
        ((now,),) = databases.query(database, "select clock_timestamp()")
        return rfc3339.format(now)

    earliest = server_time()
    hour_ahead = rfc3339.format(rfc3339.parse(earliest) + timedelta(hours=1))
    moments = [*AHEAD, hour_ahead]
    answered = [start(client, n, moment)["started_at"] for n, moment in enumerate(moments)]
    answered += [end(client, n, moment)["ended_at"] for n, moment in enumerate(moments)]
    latest = server_time()

    # Of one form, so their order as texts is their order in time.
    assert [moment for moment in answered if not earliest <= moment <= latest] == []


# --- The module itself. ---

OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_FIRST, _LAST = datetime(2020, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001  (hypothesis adds the offset)
MOMENTS = st.datetimes(_FIRST, _LAST, timezones=OFFSETS)
quickly = settings(max_examples=100, deadline=None, derandomize=True)


@quickly
@given(MOMENTS)
def test_what_is_written_reads_back_as_the_same_moment(moment: datetime) -> None:
    text = rfc3339.format(moment)

    assert rfc3339.parse(text) == moment
    assert rfc3339.parse(text).utcoffset() == timedelta(0)
    assert rfc3339.format(rfc3339.parse(text)) == text


@quickly
@given(MOMENTS, st.sampled_from("Tt"))
def test_a_moment_reads_the_same_at_any_offset(moment: datetime, separator: str) -> None:
    text = moment.isoformat(separator, timespec="microseconds")

    assert rfc3339.parse(text) == moment
    assert rfc3339.parse(text) == rfc3339.parse(moment.astimezone(UTC).isoformat())


@quickly
@given(MOMENTS, MOMENTS)
def test_written_times_are_in_the_order_of_the_moments(one: datetime, other: datetime) -> None:
    assert (rfc3339.format(one) < rfc3339.format(other)) == (one < other)


DATE_TIME_LIKE = st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?.?.?.?.?.?.?\Z")


@quickly
@given(st.text(max_size=40) | DATE_TIME_LIKE)
def test_any_text_is_a_moment_in_utc_or_a_value_error(text: str) -> None:
    try:
        moment = rfc3339.parse(text)
    except ValueError:
        return
    assert moment.utcoffset() == timedelta(0)
    assert text[4] == text[7] == "-"
