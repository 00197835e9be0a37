"""The viewer's pages in a real browser, on a run that goes on while they are looked at, and on one that has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.integration.browser import PHONE, WIDE, Watched, browser, needs_browser
from tests.integration.commands import command, until
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, write_config
from tests.view_runs import HOSTILE, group, write_run, write_shard

pytestmark = [needs_browser, pytest.mark.slow, pytest.mark.timeout(600)]

PAGES = ("curves", "groups", "evaluation", "compare", "cluster", "about")
VIEW_SECONDS = 120.0
BREAKS_THE_RULES = ("serious", "critical")
STEPS = 100_000


@dataclass(frozen=True)
class Viewed:
    """The viewer's address, and what it shows."""

    address: str
    live: Path
    """A run that goes on."""


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Iterator[Viewed]:
    folder = tmp_path_factory.mktemp("view")
    config = write_config(
        folder / "live.yaml",
        model,
        questions.train,
        run={"max_steps": STEPS},
        data={"validation": str(questions.validation)},
        evaluate={"every_steps": 5, "questions": 4},
        learner={"schedule": "constant"},
    )
    made = write_run(folder / "runs", "made")
    write_shard(made, 4, [group(99, 4, question=HOSTILE, choices=[HOSTILE, "cat"], answer=HOSTILE)])
    live = folder / "runs" / "live"
    with command("cluster.launch", "--config", config.name, cwd=folder) as training:
        training.wait_for(lambda: len(metrics_lines(live)) > 5, "six steps", START_SECONDS)
        with command("cluster.view", "runs", "--port", "0", cwd=folder) as viewer:
            viewer.wait_for(lambda: "http://" in viewer.output, "an address", VIEW_SECONDS)
            found = re.search(r"http://\S+", viewer.output)
            yield Viewed(found[0], live)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    """A page on which nothing may go wrong."""
    context = chromium.new_context(viewport=WIDE)  # type: ignore[arg-type]
    seen = Watched(context.new_page())
    yield seen
    context.close()
    assert seen.problems == []


def show(page: Page, viewed: Viewed, place: str) -> None:
    """Go to a page, and wait until it is there with what it asked for."""
    page.goto(f"{viewed.address}/#/{place}")
    expect(page.locator(f"[data-page={place.partition('?')[0]}] h1")).to_be_visible()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")


def test_the_curves_of_a_run_that_goes_on_grow(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "curves")
    expect(page.locator(".chart svg.main-svg").first).to_be_visible(timeout=30_000)
    cell = page.get_by_role("row", name=re.compile(r"^live")).locator("td").first
    before = int(cell.inner_text().split()[0].replace(",", ""))
    expect(cell).not_to_have_text(re.compile(rf"^{before:,} of"), timeout=60_000)
    assert int(cell.inner_text().split()[0].replace(",", "")) > before


def test_two_runs_are_drawn_over_each_other_on_either_axis(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "curves")
    page.get_by_role("checkbox", name="made").check()
    reward = page.locator("figure", has_text="Reward").first
    expect(reward.locator(".legendtext")).to_have_text(["live", "made"])
    page.get_by_label("Over").select_option("hours")
    expect(reward.locator(".xtitle")).to_have_text("hours")
    page.get_by_role("checkbox", name="live").uncheck()
    expect(reward.locator(".legendtext")).to_have_count(0)


def test_filters_and_search_narrow_the_groups_and_the_address_keeps_them(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "groups?run=made")
    told = page.locator("main p[role=status]")
    expect(told).to_have_text("13 of 13 groups")
    page.get_by_label("Show").select_option("all_wrong")
    expect(told).to_have_text("1 of 13 groups")
    page.get_by_label("Show").select_option("mixed")
    expect(told).to_have_text("12 of 13 groups")
    page.get_by_label("Search").fill("question 21")
    expect(told).to_have_text("1 of 13 groups")
    page.reload()
    expect(told).to_have_text("1 of 13 groups")
    page.go_back()
    expect(page.get_by_label("Show")).to_have_value("all_wrong")


def test_a_recording_of_a_group_plays(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "groups?run=live&kind=trained")
    page.locator("tbody a").first.click()
    expect(page.locator(".completion")).to_have_count(4)
    assert page.locator(".token").count() > 4
    expect(page.locator(".wave path")).to_have_attribute("d", re.compile("^M"))
    expect(page.locator(".mel")).to_have_js_property("complete", True, timeout=60_000)
    assert page.locator(".mel").evaluate("image => image.naturalHeight") == 128
    page.keyboard.press("p")
    audio = page.locator("audio")
    until(lambda: audio.evaluate("audio => audio.currentTime") > 0.05, "sound", VIEW_SECONDS)
    page.keyboard.press("p")
    box = page.locator(".pictures").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 20)
    until(
        lambda: abs(audio.evaluate("audio => audio.currentTime / audio.duration") - 0.5) < 0.1,
        "a place in the middle",
        VIEW_SECONDS,
    )


def test_nothing_of_a_data_set_is_more_than_text(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "groups?run=made&search=script")
    link = page.get_by_role("link", name=HOSTILE)
    expect(link).to_have_text(HOSTILE)
    link.click()
    expect(page.locator("main h1")).to_have_text(HOSTILE)
    assert page.evaluate("[...document.scripts].every(script => script.src.startsWith(location.origin))")


def test_the_keys_lead_through_groups_and_pages(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "groups?run=made&descending=false")
    expect(page.locator("tbody tr")).to_have_count(13)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text("Question 11?")
    page.keyboard.press("j")
    expect(page.locator("main h1")).to_have_text("Question 12?")
    page.keyboard.press("3")
    expect(page.locator("main h1")).to_have_text("Evaluation")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    theme = page.locator("html").get_attribute("data-theme")
    page.keyboard.press("t")
    expect(page.locator("html")).not_to_have_attribute("data-theme", theme or "")


def test_an_evaluation_shows_where_it_is_right_and_two_are_compared(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    show(page, viewed, "evaluation?run=made&name=trained")
    expect(page.get_by_role("region", name="By task")).to_contain_text("sound")
    page.get_by_label("Show").select_option("wrong")
    expect(page.locator(".asked > li")).to_have_count(3)
    show(page, viewed, 'compare?first=["made","base"]&second=["made","trained"]')
    expect(page.locator("section[aria-label=Gained] .asked > li")).to_have_count(2)
    expect(page.locator(".verdict")).to_contain_text("no difference is shown")


def test_what_cannot_be_shown_is_said(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    page.goto(f"{viewed.address}/#/group?run=made&step=77&row=0")
    expect(page.locator("#status")).to_contain_text("made has no group there: step 77")
    watched.problems.clear()  # the browser tells of the 404 that was asked for
    show(page, viewed, "curves")
    expect(page.locator("#status")).to_be_empty()


def test_an_answer_that_comes_late_does_not_take_another_pages_place(watched: Watched, viewed: Viewed) -> None:
    page = watched.page
    page.route("**/api/group?*", lambda route: (time.sleep(1.5), route.continue_()))
    page.goto(f"{viewed.address}/#/groups?run=made")
    page.locator("tbody a").first.click()
    page.keyboard.press("1")
    expect(page.locator("[data-page=curves] h1")).to_be_visible()
    page.wait_for_timeout(2_500)
    expect(page.locator("main h1")).to_have_text("Curves")


@pytest.mark.parametrize(("theme", "size"), [("light", WIDE), ("dark", PHONE)], ids=["light, wide", "dark, phone"])
def test_every_page_can_be_used_by_everyone(
    chromium: Browser, viewed: Viewed, theme: str, size: dict[str, int]
) -> None:
    context = chromium.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
    seen = Watched(context.new_page())
    faults = []
    for place in (*(f"{page}?run=made" for page in PAGES), "group?run=made&step=2&row=1"):
        show(seen.page, viewed, place)
        if place.startswith("curves"):
            seen.page.get_by_role("checkbox", name="made").check()
            expect(seen.page.locator("main")).to_have_attribute("aria-busy", "false")
        found = Axe().run(seen.page).response["violations"]
        faults += [
            (place, fault["id"], [node["html"][:200] for node in fault["nodes"][:2]])
            for fault in found
            if fault["impact"] in BREAKS_THE_RULES
        ]
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size["width"], place
    context.close()
    assert faults == []
    assert seen.problems == []
