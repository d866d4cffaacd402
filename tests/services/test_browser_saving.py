from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from medq_uni.annotate.store import Store
from medq_uni.taxonomy import Modality, Verdict
from tests.review.department import PASSWORD, open_department, start_server
from tests.services.postgres import free_port
from tests.services.screen import (
    HOSTILE,
    PEOPLE,
    Ward,
    another,
    fill_in,
    go_to,
    press,
    saved,
    shown,
)

pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_grades_go_and_come_back_with_the_modality(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[15]
    page = enter(name)
    go_to(page, ward, name, Modality.PET)
    press(page, "e j")
    expect(page.locator(".task")).to_have_text(["low-dose noise"])
    saved(page)
    assert ward.newest(page, name).degradations == ()
    press(page, "l")
    expect(page.locator("input[name=pet-low-count][value=moderate]")).to_be_checked()


def test_doubts_and_undo(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[8]
    page = enter(name)
    before = page.input_value("textarea >> nth=0")
    press(page, "b")
    saved(page)
    press(page, "u")
    saved(page)
    assert ward.newest(page, name).doubts == ("verdict",)
    expect(page.locator("section.doubted")).to_have_count(1)
    press(page, "t")
    page.keyboard.type(" and more")
    press(page, "Escape")
    saved(page)
    press(page, "Control+z")
    expect(page.locator("textarea >> nth=0")).to_have_value(before)
    press(page, "Control+z")
    expect(page.locator("section.doubted")).to_have_count(0)
    press(page, "Control+z")
    expect(page.locator("#undo")).to_be_disabled()
    history = ward.store.reviews.history(ward.accounts[name].id, shown(page))
    assert len(history) == 6
    assert history[-1].restores == 0


def test_an_edit_survives_closing_the_page_in_the_middle(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[9]
    page = enter(name)
    press(page, "t Control+a")
    page.keyboard.type("half a sent")
    context, number = page.context, shown(page)
    page.close()  # before the pause after which it would be saved
    page = context.new_page()
    page.goto(f"{ward.address}/review/{number}")
    page.wait_for_selector("body[data-shown]")
    expect(page.locator("textarea >> nth=0")).to_have_value("half a sent")
    saved(page)
    page.wait_for_timeout(700)
    assert ward.newest(page, name).cause == "half a sent"


def test_two_tabs_do_not_lose_each_others_work(ward: Ward, enter: Callable[..., Page], screenshots: Path):
    name = PEOPLE[11]
    one = enter(name)
    other = one.context.new_page()
    other.goto(one.url)
    other.wait_for_selector("body[data-shown]")
    press(one, "b")
    saved(one)
    press(other, "m")
    expect(other.locator("#banner")).to_contain_text("changed in another tab")
    other.screenshot(path=screenshots / "stale.png")
    banner, panel = other.locator("#banner").bounding_box(), other.locator("#aspects").bounding_box()
    assert banner
    assert panel
    assert banner["x"] + banner["width"] <= panel["x"]
    assert ward.newest(one, name).verdict is Verdict.GOOD
    other.click("text=Keep mine")
    saved(other)
    assert ward.newest(one, name).verdict is Verdict.REJECT
    press(one, "n")
    one.click("text=Take the other")
    expect(one.locator("input[name=verdict][value=reject]")).to_be_checked()
    history = ward.store.reviews.history(ward.accounts[name].id, shown(one))
    assert [revision.entry.verdict for revision in history] == [Verdict.GOOD, Verdict.REJECT]


def test_hostile_text_is_text(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[12]
    page = enter(name)
    page.fill("#comment", HOSTILE)
    page.locator("textarea >> nth=0").fill(HOSTILE)
    saved(page)
    page.reload()
    page.wait_for_selector("body[data-shown]")
    assert page.input_value("#comment") == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert ward.newest(page, name).comment == HOSTILE


def test_a_server_that_is_killed_loses_nothing_and_the_page_goes_on_when_it_is_back(
    browser: Browser, images: Path, tmp_path: Path, screenshots: Path
):
    path, port = tmp_path / "store.sqlite", free_port()
    with Store.open(path) as store:
        accounts = open_department(store, images, reviewers=("ana",))
    process = start_server(str(path), images, port)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        fill_in(page, f"http://127.0.0.1:{port}", "ana")
        press(page, "b")
        saved(page)
        process.kill()
        process.wait()
        press(page, "t Control+a")
        page.keyboard.type("written while the server was gone")
        press(page, "Escape")
        expect(page.locator("#banner")).to_contain_text("cannot be reached")
        page.screenshot(path=screenshots / "gone.png")
        process = start_server(str(path), images, port)
        expect(page.locator("#saving")).to_have_attribute("data-state", "saved", timeout=20_000)
        expect(page.locator("#banner")).to_be_hidden()
        number = shown(page)
    finally:
        context.set_offline(True)  # it ends with the browser, see enter
        process.kill()
        process.wait()
    with Store.open(path) as store:
        history = store.reviews.history(accounts["ana"].id, number)
        assert [one.entry.verdict for one in history] == [Verdict.GOOD] * len(history)
        assert history[-1].entry.cause == "written while the server was gone"
        assert store.outcomes.check() == []


def test_an_edit_made_while_signed_out_is_saved_after_signing_in(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[13]
    page = enter(name)
    number = shown(page)
    other = page.context.new_page()
    other.goto(f"{ward.address}/review")
    other.click("text=Sign out")
    other.wait_for_url("**/login")
    press(page, "t Control+a")
    page.keyboard.type("written while signed out")
    expect(page.locator("#banner")).to_contain_text("You are signed out")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/login?next=*")
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"body[data-shown='{number}']")
    expect(page.locator("textarea >> nth=0")).to_have_value("written while signed out")
    expect(page.locator("#state")).to_have_text("begun")
    saved(page)
    assert ward.newest(page, name).cause == "written while signed out"


def test_somebody_elses_session_cannot_save_over_a_page(ward: Ward, enter: Callable[..., Page]):
    one, two = PEOPLE[14], PEOPLE[16]
    page = enter(one)
    number = shown(page)
    other = page.context.new_page()
    other.goto(f"{ward.address}/review")
    other.click("text=Sign out")
    other.wait_for_url("**/login")
    fill_in(other, ward.address, two)
    press(page, "b")
    expect(page.locator("#banner")).to_contain_text("signed in anew")
    page.click("text=Load again")
    page.wait_for_selector("text=Not found")
    assert ward.store.reviews.newest(ward.accounts[one].id, number) is None
    assert all(item.head == 0 for item in ward.store.reviews.listing(ward.accounts[two].id))


def test_going_back_in_the_middle_of_an_edit_loses_nothing(ward: Ward, enter: Callable[..., Page]):
    name = PEOPLE[17]
    page = enter(name)
    first = shown(page)
    press(page, "PageDown")
    another(page, first)
    second = shown(page)
    press(page, "t Control+a")
    page.keyboard.type("on the second image")
    page.go_back()
    another(page, second)
    saved(page)
    page.wait_for_timeout(700)
    account = ward.accounts[name].id
    assert ward.store.reviews.newest(account, first) is None
    newest = ward.store.reviews.newest(account, second)
    assert newest is not None
    assert newest.entry.cause == "on the second image"


def test_a_key_that_is_held_or_pressed_twice_accepts_one_image(ward: Ward, enter: Callable[..., Page]):
    page = enter(PEOPLE[18])
    number = shown(page)
    page.wait_for_timeout(300)
    page.keyboard.down("Enter")
    for _ in range(20):
        page.keyboard.down("Enter")  # as a held key repeats
        page.wait_for_timeout(20)
    page.keyboard.up("Enter")
    another(page, number)
    expect(page.locator("#count")).to_contain_text("1 of 6 done")
    page.wait_for_timeout(300)
    number = shown(page)
    press(page, "Enter Enter")
    another(page, number)
    press(page, "Enter")
    page.wait_for_timeout(300)
    expect(page.locator("#count")).to_contain_text("2 of 6 done")
