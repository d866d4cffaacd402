"""A describer behind an OpenAI-compatible chat server, for example vLLM with Qwen3-VL."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from medq_uni.annotate.drafts import DescriberDown, DescriberError, StopDrafting
from medq_uni.annotate.prompts import Example, messages_for, read_answer, tokens_of, without_pictures
from medq_uni.annotate.records import Exchange
from medq_uni.annotate.store import Store
from medq_uni.config import ConfigError
from medq_uni.description import DescriptionError, QualityDescription, json_schema
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality

KEY_VARIABLE = "MEDQ_DESCRIBER_KEY"
MAX_ANSWER_BYTES = 1 << 20
MAX_WAIT_S = 60.0
GRACE_S = 0.5
"""How much longer than the limit a connection may take to notice itself that it is over."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class ExternalConfig:
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

    def __post_init__(self) -> None:
        """Check the URL and ranges."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError(
                f"the describer's URL needs the form http(s)://HOST[:PORT]/v1. A key goes into ${KEY_VARIABLE}."
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
class Estimate:
    """What a run will cost at most, were every question answered at the first attempt."""

    images: int
    tokens_in: int
    tokens_out: int
    cost: float


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
    description: QualityDescription | None = None
    is_down: bool = False
    is_worth_asking_again: bool = True
    tokens_in: int | None = None
    tokens_out: int | None = None
    wait_s: float = 0.0


class ExternalDescriber:
    """Asks a server for descriptions; every question and answer is kept in the store, and asked once only.

    The API key comes from the environment variable MEDQ_DESCRIBER_KEY. Redirects are not followed, so that images go to
    no other host than the one that was named.
    """

    def __init__(
        self,
        config: ExternalConfig,
        store: Store,
        *,
        examples: Callable[[str, Modality], Sequence[Example]] = lambda key, modality: (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect.

        Args:
            config: Server and limits.
            store: Where questions and answers are kept.
            examples: Corrected images of a modality to show before the question about the image of a key.
            sleep: Waits, in seconds.

        Raises:
            DescriberDown: If the server does not answer, or has not the model.
            ValueError: If openai is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise ValueError('This describer needs openai. Install it: pip install "medq-uni[annotate]"') from error
        self._openai, self._config, self._store, self._sleep = openai, config, store, sleep
        self._examples = examples
        self._spent = _Spent()
        self._client = openai.OpenAI(
            base_url=config.url,
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            max_retries=0,
            timeout=config.timeout_s,
            http_client=openai.DefaultHttpxClient(follow_redirects=False, trust_env=not config.is_local),
        )
        try:
            self.model = config.model or self._only_model()
        except BaseException:
            self.close()
            raise
        self.name = f"external:{self.model}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __call__(self, key: str, image: MedicalImage) -> QualityDescription:
        """Return the description of a slice.

        Raises:
            DescriberError: If no usable answer came; :class:`DescriberDown` if the server gave none at all.
            StopDrafting: If the money is spent.
            StoreError: If the exchange cannot be kept.
        """
        modality = image.modality
        question = messages_for(image, () if modality is None else self._examples(key, modality))
        assert modality is not None  # a question about an image without one is refused
        cache_key = self._hash(question)
        kept = self._store.valid_exchange(cache_key)
        if kept is not None:
            return read_answer(kept.answer, modality)
        messages = question
        for attempt in range(self._config.retries + 1):
            reply = self._ask(key, cache_key, messages, modality)
            if reply.description is not None:
                return reply.description
            is_last = attempt == self._config.retries or not reply.is_worth_asking_again
            if is_last:
                raise DescriberDown(reply.error) if reply.is_down else DescriberError(reply.error)
            if not reply.is_down:
                messages = [*question, *_correction(reply)]
            self._sleep(self._wait(attempt, reply))
        raise AssertionError

    def estimate(self, key: str, image: MedicalImage, images: int) -> Estimate:
        """Return what a number of images like this one will cost."""
        examples = self._examples(key, image.modality) if image.modality is not None else ()
        tokens_in = tokens_of(messages_for(image, examples)) * images
        tokens_out = self._config.max_tokens * images
        return Estimate(images, tokens_in, tokens_out, self._config.cost(tokens_in, tokens_out))

    @property
    def cost(self) -> float:
        """What has been spent since the start, by the server's own count of tokens."""
        return self._config.cost(self._spent.tokens_in, self._spent.tokens_out)

    def _hash(self, question: list[dict[str, Any]]) -> str:
        text = json.dumps([self.model, self._config.max_tokens, without_pictures(question)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _ask(self, key: str, cache_key: str, messages: list[dict[str, Any]], modality: Modality) -> _Reply:
        """Return the server's reply to one question, which is kept whatever it is."""
        self._take_turn()
        at, began = datetime.now(UTC), time.monotonic()
        reply = self._send(messages)
        if not reply.error:
            try:
                reply = replace(reply, description=read_answer(reply.answer, modality))
            except DescriptionError as error:
                reply = replace(reply, error=f"the describer's answer cannot be used: {error}")
        with self._spent.lock:
            self._spent.tokens_in += reply.tokens_in or 0
            self._spent.tokens_out += reply.tokens_out or 0
        self._store.add_exchange(
            Exchange(
                key=key,
                cache_key=cache_key,
                model=self.model,
                prompt={"messages": without_pictures(messages), "max_tokens": self._config.max_tokens},
                answer=_storable(reply.answer),
                error=_storable(reply.error),
                is_valid=reply.description is not None,
                prompt_tokens=reply.tokens_in,
                answer_tokens=reply.tokens_out,
                seconds=time.monotonic() - began,
                at=at,
            )
        )
        return reply

    def _send(self, messages: list[dict[str, Any]]) -> _Reply:
        """Return the reply to a question, or that it took too long, however slowly the server sends what."""
        answer: Future[_Reply] = Future()

        def run() -> None:
            try:
                answer.set_result(self._request(messages))
            except BaseException as error:  # raised again where it is waited for
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            return answer.result(timeout=self._config.timeout_s + GRACE_S)
        except FutureTimeout:
            return _Reply(error=_slow(self._config.timeout_s), is_down=True)

    def _request(self, messages: list[dict[str, Any]]) -> _Reply:
        import httpx

        schema = {name: value for name, value in json_schema().items() if name != "$schema"}
        form = {"name": "quality_description", "schema": schema, "strict": True}
        deadline = time.monotonic() + self._config.timeout_s
        ask: Any = self._client.chat.completions.with_streaming_response.create
        try:
            with ask(
                model=self.model,
                messages=messages,
                max_tokens=self._config.max_tokens,
                temperature=0,
                response_format={"type": "json_schema", "json_schema": form},
            ) as response:
                return _read(response.iter_bytes(), deadline, self._config.timeout_s)
        except (self._openai.APITimeoutError, httpx.TimeoutException):
            return _Reply(error=_slow(self._config.timeout_s), is_down=True)
        except self._openai.APIStatusError as error:
            return _refusal(error.status_code, error.response.headers.get("retry-after", ""))
        except (self._openai.APIConnectionError, httpx.HTTPError) as error:
            return _Reply(
                error=f"the describer cannot be reached ({type(error).__name__}). Is it running?", is_down=True
            )

    def _take_turn(self) -> None:
        """Wait until the next question may be asked; refuse once the money is spent."""
        limit = self._config.max_cost
        if limit is not None and self.cost >= limit:
            raise StopDrafting(f"stopped: {self.cost:.2f} of {limit:.2f} are spent. Go on with a higher --max-cost.")
        if self._config.requests_per_minute is None:
            return
        with self._spent.lock:
            now = time.monotonic()
            start = max(now, self._spent.next_start)
            self._spent.next_start = start + 60 / self._config.requests_per_minute
        if start > now:
            self._sleep(start - now)

    def _wait(self, attempt: int, reply: _Reply) -> float:
        """Return the seconds until the next attempt: doubling, with a random part that keeps threads out of step."""
        wait = self._config.backoff_s * 2**attempt * (1 + 0.25 * random.random())
        return min(max(wait, reply.wait_s), MAX_WAIT_S)

    def _only_model(self) -> str:
        try:
            names = [one.id for one in self._client.models.list().data]
        except (self._openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise DescriberDown(
                f"the describer does not say which models it has ({type(error).__name__}). "
                "Check that it runs and its URL, which ends in "
                "/v1 for most servers, or name the model: --model-name"
            ) from error
        if len(names) != 1:
            raise DescriberDown(f"the describer has {len(names)} models: {', '.join(names[:8])}. Choose: --model-name")
        return str(names[0])


def _read(chunks: Iterator[bytes], deadline: float, timeout_s: float) -> _Reply:
    """Return the reply of a body that is read piece by piece, so that a slow or endless one is cut off."""
    body = b""
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return _Reply(error=f"the describer sent more than {MAX_ANSWER_BYTES} bytes.", is_down=True)
        if time.monotonic() > deadline:
            return _Reply(error=_slow(timeout_s), is_down=True)
    text = body.decode("utf-8", "replace")
    try:
        values = json.loads(text)
        choice = values["choices"][0]
        answer = choice["message"]["content"]
        usage = values.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        is_cut = choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        what = "nothing" if not text.strip() else f"{text[:40]!r}..."
        return _Reply(answer=text, error=f"the describer sent no chat answer but {what}. Check its URL.", is_down=True)
    tokens_in, tokens_out = (count if isinstance(count, int) and 0 <= count < 2**31 else None for count in counts)
    error = "" if isinstance(answer, str) and answer.strip() else "the describer's answer is empty."
    if is_cut:
        error = "the describer's answer was cut off. Allow more: --max-tokens"
    return _Reply(
        answer=answer if isinstance(answer, str) else "", error=error, tokens_in=tokens_in, tokens_out=tokens_out
    )


def _refusal(status: int, retry_after: str) -> _Reply:
    wait = float(retry_after) if retry_after.isdecimal() else 0.0
    may_pass = status in (408, 409, 425, 429) or status >= 500
    hint = {401: f" Set ${KEY_VARIABLE}.", 403: f" Set ${KEY_VARIABLE}.", 404: " Check URL and model."}.get(status, "")
    is_about_image = status in (400, 413, 422)
    return _Reply(
        error=f"the describer refused with HTTP {status}.{hint}",
        is_down=not is_about_image,
        is_worth_asking_again=may_pass,
        wait_s=wait,
    )


def _correction(reply: _Reply) -> list[dict[str, Any]]:
    said = reply.answer[:4000] or "(nothing)"
    asks = f"This cannot be used: {reply.error} Answer again with one JSON object of the schema."
    return [{"role": "assistant", "content": said}, {"role": "user", "content": asks}]


def _slow(timeout_s: float) -> str:
    return f"the describer took longer than {timeout_s:g} s. Try again, or allow more: --timeout"


def _storable(text: str) -> str:
    """Return text that every database takes."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
