import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from medq_uni.annotate.images import open_source
from medq_uni.annotate.records import ReviewEntry
from medq_uni.description import Degradation
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict
from tests.review.department import PASSWORD
from tests.services.screen import (
    HOSTILE,
    PEOPLE,
    SIZES,
    Ward,
    accept,
    another,
    assert_nothing_is_cut,
    go_to,
    gray_at,
    press,
    saved,
    shown,
    window_of,
)

pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_signing_in_and_out(ward: Ward, browser: Browser, screenshots: Path):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(ward.address)
    page.screenshot(path=screenshots / "sign-in.png")
    page.fill("[name=name]", PEOPLE[0])
    page.fill("[name=password]", "not the password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Name and password do not fit.")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-shown]")
    assert "Research use only. Not for diagnostic use." in page.inner_text("footer")
    page.click("text=Sign out")
    page.wait_for_url("**/login")
    page.goto(f"{ward.address}/review")
    assert "/login?next=" in page.url
    context.set_offline(True)  # it ends with the browser: closing one of several can hang Chromium


def test_window_and_level_follow_mouse_and_keys_at_full_depth(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[1]
    page = enter(name)
    go_to(page, ward, name, Modality.CT)
    assert window_of(page) == (400, 40)
    press(page, "ArrowRight")
    assert window_of(page) == (432, 40)
    press(page, "ArrowUp")
    assert window_of(page)[1] == pytest.approx(18.4, abs=0.5)
    press(page, "0")
    box = page.locator("canvas").first.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=5)
    page.mouse.up()
    assert window_of(page)[0] < 300
    press(page, "9")
    assert window_of(page) == (1500, -600)
    press(page, "0 9 9 9")
    assert page.inner_text("#window").endswith("Soft tissue") is False
    slice_ = open_source(ward.images).image(ward.key(page, name)).voxels[0]
    go_to(page, ward, name, Modality.CT)
    row, column = 96, 96
    flat = np.abs(slice_[row - 1 : row + 2, column - 1 : column + 2] - slice_[row, column]).max()
    expected = np.clip((slice_[row, column] + 160) * 256 / 400, 0, 255)
    assert abs(gray_at(page, column, row) - expected) <= 2 + flat * 256 / 400
    press(page, "o")
    page.wait_for_timeout(60)
    assert abs(255 - gray_at(page, column, row) - expected) <= 2 + flat * 256 / 400


def test_the_value_below_the_pointer_is_that_of_the_file(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[2]
    page = enter(name)
    go_to(page, ward, name, Modality.CT)
    slice_ = open_source(ward.images).image(ward.key(page, name)).voxels[0]
    box = page.locator("canvas").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2 + 31, box["y"] + box["height"] / 2 - 17)
    expect(page.locator("#probe")).not_to_be_empty()
    match = re.match(r"(\d+), (\d+) +(\S+) HU", page.inner_text("#probe"))
    assert match
    assert float(match[3]) == pytest.approx(float(slice_[int(match[2]), int(match[1])]), abs=0.51)


def test_zoom_and_pan_follow_wheel_mouse_and_keys(ward: Ward, enter: Callable[..., Page]):
    page = enter(PEOPLE[3])

    def magnification() -> float:
        page.wait_for_timeout(60)
        return float(page.inner_text("#zoom").partition("x")[0])

    fitted = magnification()
    press(page, "+")
    assert magnification() == pytest.approx(1.25 * fitted, abs=0.02)
    press(page, "0")
    box = page.locator("canvas").first.bounding_box()
    assert box
    x, y = box["x"] + 300, box["y"] + 300
    page.mouse.move(x, y)
    below = page.inner_text("#probe")
    page.mouse.wheel(0, -400)
    assert magnification() > 1.5 * fitted
    assert page.inner_text("#probe") == below  # the point below the pointer stays
    page.mouse.down(button="right")
    page.mouse.move(x + 80, y, steps=4)
    page.mouse.up(button="right")
    assert page.inner_text("#probe") == below  # it moved along
    press(page, "Shift+ArrowLeft")
    page.wait_for_timeout(60)
    assert page.inner_text("#probe") != below
    page.mouse.dblclick(x, y)
    assert magnification() == pytest.approx(fitted)


def test_the_reference_is_shown_in_place_and_beside(ward: Ward, enter: Callable[..., Page], screenshots: Path):
    name = PEOPLE[4]
    page = enter(name)
    go_to(page, ward, name, Modality.MR)
    image, reference = page.locator("figure").first, page.locator("figure").last
    expect(reference).to_be_hidden()
    press(page, "Space")
    expect(image).to_be_hidden()
    expect(reference).to_be_visible()
    press(page, "Space g")
    expect(image).to_be_visible()
    expect(reference).to_be_visible()
    page.screenshot(path=screenshots / "side-by-side.png")
    page.click("#both")
    expect(reference).to_be_hidden()


def test_the_five_aspects_are_corrected_by_the_keyboard_alone(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[5]
    page = enter(name)
    go_to(page, ward, name, Modality.PET)
    press(page, "k 1 q s v b t Control+a")
    page.keyboard.type("the patient moved twice.")
    press(page, "Escape y Control+a")
    page.keyboard.type("edges are doubled")
    press(page, "Escape m u i")
    page.keyboard.type("see the second row")
    number = shown(page)
    accept(page)
    another(page, number)
    revision = ward.store.reviews.newest(ward.accounts[name].id, number)
    assert revision is not None
    assert revision.is_done
    entry = revision.entry
    assert (entry.modality, entry.anatomy) == (Modality.MR, Anatomy.BRAIN)
    assert {d.task: d.severity for d in entry.degradations} == {
        Task.MR_MOTION: Severity.MILD,
        Task.MR_NOISE: Severity.SEVERE,
    }
    assert entry.cause == "the patient moved twice"
    assert entry.impact == "edges are doubled"
    assert entry.verdict is Verdict.REJECT
    assert entry.doubts == ("verdict",)
    assert entry.comment == "see the second row"


def test_tab_and_arrows_lead_through_the_form(ward: Ward, enter: Callable[..., Page]):
    page = enter(PEOPLE[6])
    order = []
    page.locator("#following").focus()
    for _ in range(20):
        press(page, "Tab")
        order.append(page.evaluate("document.activeElement.name || document.activeElement.ariaLabel || ''"))
    named = [one for one in order if one]
    wanted = ["modality", "anatomy", "Technical cause", "Impact on reading", "verdict"]
    assert [one for one in named if one in wanted] == wanted
    page.locator("input[name=verdict][value=good]").focus()
    press(page, "ArrowRight")
    expect(page.locator("input[name=verdict][value=usable]")).to_be_checked()
    saved(page)
    assert ward.newest(page, PEOPLE[6]).verdict is Verdict.USABLE


def test_a_problem_keeps_the_image_and_says_why(ward: Ward, enter: Callable[..., Page]):
    page = enter(PEOPLE[7])
    number = shown(page)
    press(page, "t Control+a Delete Enter")
    expect(page.locator("[data-aspect=cause] .note")).to_have_text("Say it in a few words.")
    page.keyboard.type("dose: low")
    press(page, "Enter")
    expect(page.locator("[data-aspect=cause] .note")).to_have_text("Leave out the colon.")
    assert shown(page) == number
    expect(page.locator("#count")).to_contain_text("0 of 6 done")


def test_accepting_goes_on_to_the_end_and_the_progress_counts(ward: Ward, enter: Callable[..., Page]):
    page = enter(PEOPLE[10])
    for done in range(6):
        expect(page.locator("#count")).to_contain_text(f"{done} of 6 done")
        number = shown(page)
        accept(page)
        if done < 5:
            another(page, number)
    page.wait_for_selector("text=All 6 images are done")
    page.click("text=Look at the last one again")
    page.wait_for_selector("body[data-shown]")
    expect(page.locator("#state")).to_have_text("finished")
    press(page, "PageUp")
    another(page, number)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_nothing_overlaps_and_nothing_is_cut(
    ward: Ward, enter: Callable[..., Page], screenshots: Path, size: tuple[int, int]
):
    name = PEOPLE[13 + SIZES.index(size)]
    page = enter(name, size)
    for modality in Modality:
        go_to(page, ward, name, modality)
        press(page, "e f 4 7 n")
        page.wait_for_timeout(150)
        page.screenshot(path=screenshots / f"review-{modality}-{size[0]}.png")
        assert_nothing_is_cut(page)
        panel = page.evaluate(
            "(() => { const p = document.getElementById('aspects'); return p.scrollHeight - p.clientHeight; })()"
        )
        assert panel <= 0, f"the aspects need {panel} px more"
        boxes = page.evaluate(
            """() => [...document.querySelectorAll("#aspects section, .actions, #stage, .tools, .top, .notice")]
              .map((one) => { const b = one.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })"""
        )
        for number, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0
            assert top >= 0
            assert right <= size[0] + 0.5
            assert bottom <= size[1] + 0.5
            for l2, t2, r2, b2 in boxes[number + 1 :]:
                assert min(right, r2) - max(left, l2) <= 0.5 or min(bottom, b2) - max(top, t2) <= 0.5
    press(page, "h")
    expect(page.locator("dialog")).to_be_visible()
    page.screenshot(path=screenshots / f"keys-{size[0]}.png")
    press(page, "h")
    expect(page.locator("dialog")).to_be_hidden()


def test_an_administrator_decides_by_the_keyboard(ward: Ward, enter: Callable[..., Page], screenshots: Path):
    key = sorted(image.key for image in ward.store.images())[0]
    for name, verdict in zip(PEOPLE[16:19], Verdict, strict=True):
        account = ward.accounts[name].id
        found = next(one for one in ward.store.reviews.listing(account) if one.key == key)
        draft = ward.store.draft(key, 1)
        assert draft is not None
        changes = {"verdict": verdict, "cause": f"said with {verdict}", "doubts": ("impact",), "comment": HOSTILE}
        entry = ReviewEntry(**{**vars(ReviewEntry.of(draft.description)), **changes})
        ward.store.reviews.save(found.id, account, based_on=found.head, entry=entry, is_done=True)
    page = enter("chief")
    page.screenshot(path=screenshots / "progress.png", full_page=True)
    page.click("text=Agreement")
    page.screenshot(path=screenshots / "agreement.png", full_page=True)
    page.click("nav >> text=Adjudication")
    page.wait_for_selector("body[data-shown]")
    expect(page.locator("section.contested h2")).to_contain_text(["Impact", "Verdict"])
    expect(page.locator(".doubters:not(:empty)")).to_have_text([re.compile(r"in doubt: \w{3}")])
    expect(page.locator(".remarks p").first).to_contain_text(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".verdicts .votes:not(:empty)").count() == 3
    assert_nothing_is_cut(page)
    page.screenshot(path=screenshots / "adjudication.png")
    accept(page)
    expect(page.locator("#toast")).to_contain_text("Choose a verdict")
    page.locator(".said button").nth(1).click()
    press(page, "m Enter")
    page.wait_for_selector("text=Nothing to decide")
    resolution = ward.store.outcomes.resolution(key, 1)
    assert resolution is not None
    assert resolution.entry.verdict is Verdict.REJECT
    assert resolution.entry.cause.startswith("said with ")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_grade_that_nobody_agrees_on_is_not_decided_by_a_key_press(
    ward: Ward, enter: Callable[..., Page], screenshots: Path, size: tuple[int, int]
):
    listing = ward.store.reviews.listing(ward.accounts[PEOPLE[16]].id)
    key = sorted(one.key for one in listing if one.modality is Modality.MR)[SIZES.index(size)]
    for name, grade in zip(PEOPLE[16:19], (Severity.MILD, Severity.MODERATE, Severity.SEVERE), strict=True):
        account = ward.accounts[name].id
        found = next(one for one in ward.store.reviews.listing(account) if one.key == key)
        draft = ward.store.draft(key, 1)
        assert draft is not None
        grades = (Degradation(Task.MR_UNDERSAMPLING, Severity.MODERATE), Degradation(Task.MR_NOISE, grade))
        entry = replace(ReviewEntry.of(draft.description), degradations=grades, verdict=Verdict.REJECT)
        ward.store.reviews.save(found.id, account, based_on=found.head, entry=entry, is_done=True)
    page = enter("chief", size)
    page.goto(f"{ward.address}/adjudicate/1/{key}")
    page.wait_for_selector("body[data-shown]")
    grade = page.locator(f"input[name={Task.MR_NOISE}]:checked")
    expect(grade).to_have_count(0)
    expect(page.locator(f"input[name={Task.MR_MOTION}]:checked")).to_have_value("none")
    accept(page)
    expect(page.locator("#toast")).to_contain_text("Choose a grade")
    assert ward.store.outcomes.resolution(key, 1) is None
    page.screenshot(path=screenshots / f"adjudication-grades-{size[0]}.png")
    assert_nothing_is_cut(page)
    press(page, "z")
    expect(grade).to_have_value("none")
    with page.expect_response(lambda response: response.request.method == "PUT"):
        press(page, "x Enter")
    resolution = ward.store.outcomes.resolution(key, 1)
    assert resolution is not None
    assert Degradation(Task.MR_NOISE, Severity.MILD) in resolution.entry.degradations
