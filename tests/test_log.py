"""Progress where there is no terminal, and who speaks."""

import logging
from collections.abc import Iterator

import pytest

from mmcb import log


@pytest.fixture(autouse=True)
def _fresh_console() -> Iterator[None]:
    logger = logging.getLogger("mmcb")
    before = (_own_handlers(logger), logger.level, logger.propagate)
    _replace_handlers(logger, [])
    log.console.cache_clear()
    yield
    log.console.cache_clear()
    _replace_handlers(logger, before[0])
    logger.setLevel(before[1])
    logger.propagate = before[2]


def _own_handlers(logger: logging.Logger) -> list[logging.Handler]:
    return [handler for handler in logger.handlers if handler.name == log.HANDLER_NAME]


def _replace_handlers(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    for handler in _own_handlers(logger):
        logger.removeHandler(handler)
    for handler in handlers:
        logger.addHandler(handler)


def test_plain_lines_come_seldom_and_end_with_the_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    with log.progress(total=30, description="captioning", initial=10) as bar:
        for _ in range(20):
            now[0] += 1.0
            bar.advance(skipped=2, loss=0.12345678)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "captioning: 15/30, 1.0/s, 15 s left, skipped 2  loss 0.1235"
    assert lines[-1] == "captioning: 30/30, 1.0/s, skipped 2  loss 0.1235"
    assert len(lines) == 5


def test_unknown_total_and_slow_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    with log.progress(total=None, description="[b]reading[/b]") as bar:
        now[0] += 8.0
        bar.advance(2)
    assert capsys.readouterr().err.splitlines()[0] == "[b]reading[/b]: 2, 4.0 s each"


def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with (
        log.progress(total=2, description="outer") as outer,
        log.progress(total=2, description="inner") as inner,
    ):
        inner.advance(2, loss="[red]")
        outer.advance(2)
    written = capsys.readouterr().err
    assert "outer" in written
    assert "inner" in written
    assert "2/2" in written
    assert "loss [red]" in written


@pytest.mark.parametrize(
    ("environment", "speaks"),
    [({}, True), ({"RANK": "0"}, True), ({"RANK": "1"}, False), ({"LOCAL_RANK": "3"}, False)],
)
def test_rank_0_speaks(
    environment: dict[str, str],
    speaks: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    log.setup_logging()
    log.setup_logging()
    log.get_logger("mmcb.training").info("step 1 [bold]")
    with log.progress(total=1, description="work") as bar:
        bar.advance()
    written = capsys.readouterr().err
    assert written.count("step 1 [bold]") == int(speaks)
    assert ("work: 1/1" in written) == speaks
    assert not logging.getLogger().handlers or logging.getLogger("mmcb").propagate is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert log.format_seconds(seconds) == text


def test_as_a_library_too_only_rank_0_warns(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `setup_logging` Python itself prints warnings."""
    logging.getLogger("mmcb").propagate = True
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        log.get_logger("mmcb.training").warning("rank %s warns", rank)
        log.get_logger("mmcb.training").error("rank %s fails", rank)
    assert set(caplog.messages) == {"rank 0 warns", "rank 0 fails", "rank 1 fails"}


def test_a_module_run_by_python_m_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup_logging()
    log.get_logger("__main__").info("stage 1 of 7")
    assert capsys.readouterr().err.endswith("stage 1 of 7\n")


def test_a_handler_of_someone_else_is_not_taken_for_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("mmcb")
    foreign = logging.NullHandler()
    logger.addHandler(foreign)
    try:
        log.setup_logging()
        log.get_logger("mmcb.training").info("step 1")
        assert capsys.readouterr().err.count("step 1") == 1
        assert foreign in logger.handlers
    finally:
        logger.removeHandler(foreign)
