"""A client of an OpenAI-compatible chat server that bounds time, rate and money, and asks again where it fails."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from medq_uni.config import ConfigError
from medq_uni.errors import MedQError
from medq_uni.json_text import parse_json

S = TypeVar("S")
T = TypeVar("T")
Messages = list[dict[str, Any]]

KEY_VARIABLE = "MEDQ_DESCRIBER_KEY"
MAX_ANSWER_BYTES = 1 << 20
MAX_WAIT_S = 60.0
GRACE_S = 0.5
"""How much longer than the limit a connection may take to notice itself that it is over."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class NoAnswer(MedQError):  # noqa: N818 - what is wrong
    """No usable answer came; the message says why."""


class ServerDown(NoAnswer):
    """The server does not answer at all, or refuses everything."""


class BudgetSpent(MedQError):  # noqa: N818 - what is wrong
    """The money is spent; what was answered until then is kept."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How a server is asked."""

    url: str
    """Base URL, for example ``http://localhost:8000/v1``."""
    model: str | None = None
    """Name of the model; None takes the only one that the server has."""
    timeout_s: float = 120.0
    """Longest wait for one whole answer."""
    retries: int = 4
    """Times that a question is asked again where the server fails or the answer cannot be used."""
    backoff_s: float = 1.0
    """Wait before the second attempt; doubles with every further one, up to a minute."""
    requests_per_minute: float | None = None
    """Most questions per minute, all threads together; None does not limit."""
    max_tokens: int = 400
    """Longest answer."""
    price_in: float = 0.0
    """Price of a million tokens of the question, in any currency."""
    price_out: float = 0.0
    """Price of a million tokens of the answer."""
    max_cost: float | None = None
    """Cost at which to stop; None does not stop."""
    key_variable: str = KEY_VARIABLE
    """Environment variable that holds the API key."""

    def __post_init__(self) -> None:
        """Check the URL and ranges."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError(
                f"the server's URL needs the form http(s)://HOST[:PORT]/v1. A key goes into ${self.key_variable}."
            )
        if self.timeout_s <= 0 or self.retries < 0 or self.max_tokens < 1 or (self.requests_per_minute or 1) <= 0:
            raise ConfigError("timeout, tokens and requests per minute must be positive, retries 0 or more.")

    @property
    def is_local(self) -> bool:
        """Whether the images stay on this machine."""
        return urlsplit(self.url).hostname in _LOOPBACK

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Return the price of tokens."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(frozen=True)
class Asked:
    """One attempt: what was asked, and what came.

    Attributes:
        messages: The question, pictures included.
        answer: Text that came, empty where none did.
        error: Why it cannot be used; empty where it can.
        tokens_in: Tokens of the question by the server's count; None where it did not say.
        tokens_out: Tokens of the answer.
        seconds: Time from the question to the answer.
        at: When it was asked.
    """

    messages: Messages
    answer: str
    error: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    at: datetime


@dataclass
class _Spent:
    tokens_in: int = 0
    tokens_out: int = 0
    next_start: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, kw_only=True)
class _Reply:
    answer: str = ""
    error: str = ""
    is_down: bool = False
    is_worth_asking_again: bool = True
    tokens_in: int | None = None
    tokens_out: int | None = None
    wait_s: float = 0.0


class ChatClient:
    """Asks one model of a server, at temperature 0; safe to use from several threads.

    A server that refuses ``max_tokens`` or a temperature, as some models that think do, is asked without from then on.

    The API key comes from the environment variable that the configuration names. Redirects are not followed, so that
    what is asked goes to no other host than the one that was named.
    """

    def __init__(self, config: ChatConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Connect.

        Args:
            config: Server and limits.
            sleep: Waits, in seconds.

        Raises:
            ServerDown: If the server does not answer, or has not the model.
            MedQError: If openai is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise MedQError('Chat servers need openai. Install it: pip install "medq-uni[annotate]"') from error
        self.config, self._openai, self._sleep = config, openai, sleep
        self._spent = _Spent()
        self._limits: dict[str, Any] = {"max_tokens": config.max_tokens, "temperature": 0}
        self._client = openai.OpenAI(
            base_url=config.url,
            api_key=os.environ.get(config.key_variable) or "none",
            max_retries=0,
            timeout=config.timeout_s,
            http_client=openai.DefaultHttpxClient(follow_redirects=False, trust_env=not config.is_local),
        )
        try:
            self.model = config.model or self._only_model()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def cost(self) -> float:
        """What has been spent since the start, by the server's own count of tokens."""
        return self.config.cost(self._spent.tokens_in, self._spent.tokens_out)

    def ask(
        self,
        question: Messages,
        read: Callable[[str], T],
        *,
        schema: dict[str, Any] | None = None,
        keep: Callable[[Asked], None] = lambda asked: None,
    ) -> T:
        """Return what is read from the answer; ask again, with growing waits, where there is none.

        Args:
            question: Chat messages.
            read: Takes the text of an answer; raises MedQError, with the reason, where it cannot be used.
            schema: JSON schema that the answer has to follow, with its ``title``; None takes any text.
            keep: Called with every attempt, whatever came of it.

        Raises:
            NoAnswer: If no usable answer came; :class:`ServerDown` if none came at all.
            BudgetSpent: If the money is spent.
        """
        messages = question
        for attempt in range(self.config.retries + 1):
            self._take_turn()
            at, began = datetime.now(UTC), time.monotonic()
            reply = self._send(messages, schema)
            error, value = reply.error, None
            if not error:
                try:
                    value = read(reply.answer)
                except MedQError as reason:
                    error = f"the answer cannot be used: {reason}"
            with self._spent.lock:
                self._spent.tokens_in += reply.tokens_in or 0
                self._spent.tokens_out += reply.tokens_out or 0
            seconds = time.monotonic() - began
            keep(Asked(messages, reply.answer, error, reply.tokens_in, reply.tokens_out, seconds, at))
            if not error:
                return value  # type: ignore[return-value]  # what read returned, None included
            if attempt == self.config.retries or not reply.is_worth_asking_again:
                raise ServerDown(error) if reply.is_down else NoAnswer(error)
            if not reply.is_down:
                messages = [*question, *_correction(reply.answer, error, schema)]
            self._sleep(self._wait(attempt, reply))
        raise AssertionError

    def _send(self, messages: Messages, schema: dict[str, Any] | None) -> _Reply:
        """Return the reply to a question, or that it took too long, however slowly the server sends what."""
        answer: Future[_Reply] = Future()

        def run() -> None:
            try:
                answer.set_result(self._request(messages, schema))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            return answer.result(timeout=self.config.timeout_s + GRACE_S)
        except FutureTimeout:
            return _Reply(error=_slow(self.config.timeout_s), is_down=True)

    def _request(self, messages: Messages, schema: dict[str, Any] | None) -> _Reply:
        import httpx

        deadline, limits = time.monotonic() + self.config.timeout_s, self._limits
        ask: Any = self._client.chat.completions.with_streaming_response.create
        try:
            with ask(
                model=self.model,
                messages=messages,
                **limits,
                **_form(schema),
            ) as response:
                return _read(response.iter_bytes(), deadline, self.config.timeout_s)
        except (self._openai.APITimeoutError, httpx.TimeoutException):
            return _Reply(error=_slow(self.config.timeout_s), is_down=True)
        except self._openai.APIStatusError as error:
            other = _other_limits(limits, error.response.text) if error.status_code == 400 else limits
            if other != limits:
                self._limits = other
                return self._request(messages, schema)
            wait = error.response.headers.get("retry-after", "")
            return _refusal(error.status_code, wait, self.config.key_variable, has_picture=_has_picture(messages))
        except (self._openai.APIConnectionError, httpx.HTTPError) as error:
            return _Reply(error=f"the server cannot be reached ({type(error).__name__}). Is it running?", is_down=True)

    def _take_turn(self) -> None:
        """Wait until the next question may be asked; refuse once the money is spent."""
        limit = self.config.max_cost
        if limit is not None and self.cost >= limit:
            raise BudgetSpent(f"stopped: {self.cost:.2f} of {limit:.2f} are spent. Go on with a higher --max-cost.")
        if self.config.requests_per_minute is None:
            return
        with self._spent.lock:
            now = time.monotonic()
            start = max(now, self._spent.next_start)
            self._spent.next_start = start + 60 / self.config.requests_per_minute
        if start > now:
            self._sleep(start - now)

    def _wait(self, attempt: int, reply: _Reply) -> float:
        """Return the seconds until the next attempt: doubling, with a random part that keeps threads out of step."""
        wait: float = self.config.backoff_s * 2**attempt * (1 + 0.25 * random.random())
        return min(max(wait, reply.wait_s), MAX_WAIT_S)

    def _only_model(self) -> str:
        try:
            names = [one.id for one in self._client.models.list().data]
        except (self._openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise ServerDown(
                "the server does not say which models it has: no list of an OpenAI-compatible server came. Check that "
                "it runs and its URL, which ends in /v1 for most servers, or name the model (--model-name, or "
                "openai:MODEL@URL)."
            ) from error
        if len(names) != 1:
            listed = ", ".join(names[:8])
            raise ServerDown(
                f"the server has {len(names)} models: {listed}. Choose one (--model-name, or openai:MODEL@URL)."
            )
        return str(names[0])


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S], ahead: int
) -> Iterator[tuple[S, Future[T]]]:
    """Yield every item with its future, in order, at most ``ahead`` of them begun; the rest is left when it stops."""
    waiting: deque[tuple[S, Future[T]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


def _read(chunks: Iterator[bytes], deadline: float, timeout_s: float) -> _Reply:
    """Return the reply of a body that is read piece by piece, so that a slow or endless one is cut off."""
    body = b""
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return _Reply(error=f"the server sent more than {MAX_ANSWER_BYTES} bytes.", is_down=True)
        if time.monotonic() > deadline:
            return _Reply(error=_slow(timeout_s), is_down=True)
    text = body.decode("utf-8", "replace")
    try:
        values = parse_json(text)
        choice = values["choices"][0]
        answer = choice["message"]["content"]
        usage = values.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        is_cut = choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        what = "nothing" if not text.strip() else f"{text[:40]!r}..."
        return _Reply(answer=text, error=f"the server sent no chat answer but {what}. Check its URL.", is_down=True)
    tokens_in, tokens_out = (count if isinstance(count, int) and 0 <= count < 2**31 else None for count in counts)
    error = "" if isinstance(answer, str) and answer.strip() else "the answer is empty."
    if is_cut:
        error = "the answer was cut off. Allow more: --max-tokens, of a judge --judge-max-tokens"
    return _Reply(
        answer=answer if isinstance(answer, str) else "", error=error, tokens_in=tokens_in, tokens_out=tokens_out
    )


def _other_limits(limits: dict[str, Any], refusal: str) -> dict[str, Any]:
    """Return limits without what a server says that it does not know, ``max_tokens`` under its newer name."""
    if "max_tokens" in limits and "max_completion_tokens" in refusal:
        rest = {name: value for name, value in limits.items() if name != "max_tokens"}
        return rest | {"max_completion_tokens": limits["max_tokens"]}
    if "temperature" in limits and "temperature" in refusal:
        return {name: value for name, value in limits.items() if name != "temperature"}
    return limits


def _has_picture(messages: Messages) -> bool:
    return any(isinstance(message["content"], list) for message in messages)


def _refusal(status: int, retry_after: str, key_variable: str, *, has_picture: bool) -> _Reply:
    wait = float(retry_after) if retry_after.isdecimal() else 0.0
    may_pass = status in (408, 409, 425, 429) or status >= 500
    hint = {401: f" Set ${key_variable}.", 403: f" Set ${key_variable}.", 404: " Check URL and model."}.get(status, "")
    is_about_image = has_picture and status in (400, 413, 422)
    return _Reply(
        error=f"the server refused with HTTP {status}.{hint}",
        is_down=not is_about_image,
        is_worth_asking_again=may_pass,
        wait_s=wait,
    )


def _form(schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {}
    plain = {name: value for name, value in schema.items() if name != "$schema"}
    form = {"name": schema["title"], "schema": plain, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def _correction(answer: str, error: str, schema: dict[str, Any] | None) -> Messages:
    said = answer[:4000] or "(nothing)"
    how = "" if schema is None else " with one JSON object of the schema"
    asks = f"This cannot be used: {error} Answer again{how}."
    return [{"role": "assistant", "content": said}, {"role": "user", "content": asks}]


def _slow(timeout_s: float) -> str:
    return f"the server took longer than {timeout_s:g} s. Try again, or allow more: --timeout"
