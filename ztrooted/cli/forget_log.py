"""``ztrooted forget-log``: accept, deliberately, that a gateway's log is another one than it was."""

from ztrooted.cli.connection import CaFile
from ztrooted.cli.output import JsonFlag, show
from ztrooted.clock import SystemClock
from ztrooted.errors import UsageProblem
from ztrooted.reasons import GateReason


def forget_log(
    ca: CaFile,
    json: JsonFlag = False,
) -> None:
    """Forget what was seen of the log behind this CA, once a person knows why it is another one.

    What was remembered is kept beside, under another name: it is evidence. The next answer is believed as the first one was.
    """
    from ztrooted.log_memory import forget, memory_file, state_folder  # noqa: PLC0415 -- --help has no use for it

    file = memory_file(state_folder(), ca)
    aside = forget(file, SystemClock().now_ms())
    if aside is None:
        raise UsageProblem(
            GateReason.CONFIG_MISSING,
            f"nothing is remembered in {file}",
            "name the gateway's CA, and its ZTROOTED_STATE",
        )
    show({"forgotten": str(file), "kept": str(aside)}, f"Forgotten. What was remembered is in {aside}.", json=json)
