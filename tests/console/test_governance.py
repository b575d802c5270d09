"""The governance console in a browser."""

from tests.support.browser import Browse, live, picture
from tests.support.gateway_in_process import GatewayInProcess


async def test_the_overview_is_there_and_live(gate: GatewayInProcess, browse: Browse) -> None:
    page = await browse("operator", "olivia")
    await live(page)
    await picture(page, "overview")


async def test_signing_in_is_usable_by_keyboard_alone(gate: GatewayInProcess, browse: Browse) -> None:
    page = await browse()
    await page.goto(gate.url + "/console/")
    await picture(page, "login")
