"""The demo that is played in a browser: what is served when, to whom, and that no act is played out of turn."""

from pathlib import Path

import pytest

from gateway.demo import player_of
from tests.support.gateway_in_process import GatewayInProcess, gate
from ztrooted.demo.console import KEY_FILE, take_key, write_key
from ztrooted.demo.player import NEXT, Act, NotNowError, Player, Scene
from ztrooted.errors import EnvironmentProblem

__all__ = ["gate"]  # a fixture


@pytest.mark.parametrize("act", [act for act in Act if act is not Act.BOOT])
def test_nothing_is_played_before_its_time(tmp_path: Path, act: Act) -> None:
    player = Player(tmp_path)
    with pytest.raises(NotNowError, match="next is boot"):
        player.play(act)
    assert player.seen.steps == ()
    player.close()


def test_a_step_that_fails_is_told_and_the_story_begins_anew(tmp_path: Path) -> None:
    """There is no gateway in this folder."""
    changes: list[int] = []
    player = Player(tmp_path)
    player.listen(lambda: changes.append(1))
    player._story.find_gateway = lambda: (_ for _ in ()).throw(OSError("nobody is there"))  # type: ignore[method-assign]
    player.play(Act.BOOT)
    player._thread.submit(lambda: None).result()
    seen = player.seen
    assert [step.status for step in seen.steps] == ["failed", "waiting", "waiting", "waiting"]
    assert seen.steps[0].problem == "nobody is there"
    assert (seen.scene, seen.allowed) == (Scene.STOPPED, Act.BOOT)
    assert seen.version == len(changes)
    player.close()


def test_while_one_act_is_played_there_is_no_other() -> None:
    assert set(NEXT) == set(Scene)
    assert set(NEXT.values()) == set(Act)


def test_the_key_of_the_link_works_once(tmp_path: Path) -> None:
    assert not take_key(tmp_path, "")
    write_key(tmp_path, "right")
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
    assert not take_key(tmp_path, "wrong")
    assert take_key(tmp_path, "right")
    assert not take_key(tmp_path, "right")
    (tmp_path / KEY_FILE).write_text("")  # as a disk that is full leaves it
    assert not take_key(tmp_path, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost", "gate.example"])  # noqa: S104
async def test_the_demo_is_served_to_this_machine_alone(gate: GatewayInProcess, tmp_path: Path, host: str) -> None:
    config = gate.gateway.config.model_copy(update={"listen_host": host})
    with pytest.raises(EnvironmentProblem, match="not this machine alone"):
        player_of(config, tmp_path)


async def test_a_plain_gateway_has_no_demo(gate: GatewayInProcess) -> None:
    assert gate.gateway.player is None
