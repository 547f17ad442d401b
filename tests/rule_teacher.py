"""A teacher that follows rules instead of a model, behind a real HTTP server on loopback, and counts what it is asked.

The user names a number ("number 17"); the answer is {"number": 17}. It prefers the right answer and repairs any. About
a document it asks three questions, and a question about a document's last word is searched with it. Its rubric is
always the same, and so is its advice.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class RuleTeacher:
    """`asked` counts the answered requests by their body; `base_url` is where they go.

    Of the numbers in `slips` its first correction is still wrong, of those in `hopeless` every one; its answer to those
    in `long` goes on for 200,000 characters. With `varied` the same training prompt gets four answers in turn, of which
    two are right. With `vague` it writes no rubric that can be read, with `silent` it marks no answer, with `cut` all
    it says ends at the limit.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.delay_s = 0.0
        self.slips: set[int] = set()
        self.hopeless: set[int] = set()
        self.long: set[int] = set()
        self.varied = self.vague = self.silent = self.cut = False
        lock = threading.Lock()
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"])).decode()
                teacher.keys.add(self.headers.get("authorization", ""))
                if teacher.delay_s:
                    threading.Event().wait(teacher.delay_s)
                with lock:
                    teacher.asked[text] += 1
                    turn = teacher.asked[text] - 1 if teacher.varied else 0
                asked = json.loads(text)
                messages = asked["messages"]
                given = messages[-1]["role"] == "assistant"  # to be scored, not answered
                said = "" if given else answer(messages, teacher.slips, teacher.hopeless, turn)
                if (teacher.vague and '"criteria"' in said) or (teacher.silent and '"answer_1"' in said):
                    said = "They are all fine."
                if any(messages[-1]["content"] == f"number {number}" for number in teacher.long):
                    said += "x" * 200_000
                body = json.dumps(completion(said, cut=teacher.cut) | logprobs(asked, said)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # with the usual 5, a burst of connections is reset now and then

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def rule_teacher() -> Iterator[RuleTeacher]:
    teacher = RuleTeacher()
    teacher.start()
    try:
        yield teacher
    finally:
        teacher.stop()


def answer(
    messages: list[dict[str, str]], slips: Set[int] = frozenset(), hopeless: Set[int] = frozenset(), turn=0
) -> str:
    """What the teacher says: a demonstration, a verdict, a correction and so on, told apart by what it is asked."""
    system, asked = messages[0]["content"], messages[-1]["content"]
    document = re.search(r"<document>\n(.*?)\n</document>", asked, re.DOTALL)
    if document:
        return questions(document[1].split())
    searched = re.search(r"How about (\S+)\?|Is there (help)\?", asked)
    if searched:
        query = searched[1] or searched[2]
        return json.dumps({"reason": "rule", "corrected": query}) if "You correct an answer" in system else query
    number = re.findall(r"number (\d+)", asked)[0]
    right = json.dumps({"number": int(number)})
    if "which of two answers" in system:
        first = re.search(r"<answer_A>\n(.*?)\n</answer_A>", asked, re.DOTALL)
        shown = first[1] if first else asked.split("\nA: ")[1].splitlines()[0]
        # Nearest to right: the answer with the number in it, else the shorter one; both orders agree.
        second = re.search(r"<answer_B>\n(.*?)\n</answer_B>", asked, re.DOTALL)
        other = second[1] if second else asked.split("\nB: ")[1].splitlines()[0]
        better = min((shown, other), key=lambda text: (number not in text, len(text), text))
        return json.dumps({"reason": "rule", "winner": "A" if better == shown else "B"})
    given = re.search(r"<answer>\n(.*?)\n</answer>", asked, re.DOTALL)
    said = given[1].strip() if given else ""
    if "You correct an answer" in system:
        if int(number) in hopeless or (int(number) in slips and not said.startswith('{"number"')):
            right = json.dumps({"number": -2 if said == '{"number": -1}' else -1})
        return json.dumps({"reason": "rule", "corrected": right})
    if "first goes wrong" in system:
        shared = next((i for i, (a, b) in enumerate(zip(said, right, strict=False)) if a != b), 0)
        return json.dumps({"why": "rule", "verdict": "wrong", "quote": said[shared:]})
    if "You write the rubric" in system:
        return json.dumps({"criteria": [{"criterion": text, "points": points} for text, (points, _) in RUBRIC.items()]})
    if "You mark answers" in system:
        return json.dumps(marks(asked, number))
    if "You coach a writer" in system:
        return json.dumps({"mistake": "rule", "advice": ADVICE})
    if "one short strategy" in system:
        return json.dumps({"strategy": "Copy the number."})
    wrong = json.dumps({"number": int(number) + 1})
    return right if int(number) >= 100 else (right, right.replace(" ", ""), "no", wrong)[turn % 4]


ADVICE = "Copy the number that the user names into the field, and nothing else."
RUBRIC: dict[str, tuple[int, Callable[[str, str], bool]]] = {
    "Holds the number that the user names": (5, lambda text, number: number in text),
    "Holds a letter": (2, lambda text, number: any(letter.isalpha() for letter in text)),
    "Has no more than six characters": (1, lambda text, number: len(text) <= 6),
    "Begins with a brace": (1, lambda text, number: text.startswith("{")),
}
"""Criteria, their points, and when an answer meets them."""


def marks(asked: str, number: str) -> dict[str, dict[str, Any]]:
    criteria = re.findall(
        r"^\d+\. (.*)$", re.findall(r"<criteria>\n(.*?)\n</criteria>", asked, re.DOTALL)[0], re.MULTILINE
    )
    return {
        f"answer_{place}": {
            f"criterion_{at}": {"reason": "rule", "met": RUBRIC[criterion][1](text, number)}
            for at, criterion in enumerate(criteria, start=1)
        }
        for place, text in re.findall(r"<answer_(\d+)>\n(.*?)\n</answer_\1>", asked, re.DOTALL)
    }


def questions(words: list[str]) -> str:
    """The first has a word that nothing else has, the second names something, the third everybody asks."""
    return json.dumps({"questions": [f"How about {words[-1]}?", f"What is `{words[0]}`?", "Is there help?"]})


def completion(text: str, *, cut: bool = False) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "rules",
        "choices": [choice | {"finish_reason": "length" if cut else "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def logprobs(asked: dict[str, Any], said: str) -> dict[str, Any]:
    """Of its own answer, or of the given one, in tokens of three characters: itself nearly sure, one other possible."""
    if "prompt_logprobs" in asked:
        given = "<template>" + asked["messages"][-1]["content"]
        rows = [{str(i): _token(part), "0": _token("?", 2)} for i, part in enumerate(_parts(given), 1)]
        return {"prompt_logprobs": [None, *rows]}
    if "logprobs" in asked:
        tokens = [{**_named(part), "top_logprobs": [_named(part), _named("?", 2)]} for part in _parts(said)]
        choice = completion(said)["choices"][0]
        return {"choices": [choice | {"logprobs": {"content": tokens}}]}
    return {}


def _parts(text: str) -> list[str]:
    head = text[: len(text) % 3]
    return [*([head] if head else []), *(text[i : i + 3] for i in range(len(head), len(text), 3))]


def _token(text: str, rank: int = 1) -> dict[str, Any]:
    return {"decoded_token": text, "logprob": -0.1 if rank == 1 else -2.5, "rank": rank}


def _named(text: str, rank: int = 1) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode()), "logprob": -0.1 if rank == 1 else -2.5}


SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}


def write_task(folder: Path, teacher: RuleTeacher, student: Path, *, prompts: int = 24, **train: Any) -> Path:
    """A whole task in `folder`: prompts (every second with a reference), test prompts, schema, config."""

    def line(number: int, labelled: bool) -> str:
        messages = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": f"number {number}"}]
        return json.dumps({"messages": messages, **({"reference": {"number": number}} if labelled else {})})

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("\n".join(line(i, i % 2 == 0) for i in range(prompts)) + "\n")
    (folder / "test.jsonl").write_text("\n".join(line(i, True) for i in range(100, 106)) + "\n")
    (folder / "number.schema.json").write_text(json.dumps(SCHEMA))
    # A random student is cut off and scores alike most of the time, which the monitors rightly find hopeless.
    usual = {"steps": 2, "prompts_per_step": 2, "group_size": 2, "warmup_max": 2, "validate_every": 2}
    settings = usual | {"on_collapse": '"warn"'} | train
    config = folder / "task.toml"
    config.write_text(
        f"""
recipe = "gad"
[student]
model = "{student}"
device = "cpu"
dtype = "float32"
max_new_tokens = 8
lora_rank = 4
[teacher]
model = "openai:rules"
base_url = "{teacher.base_url}"
id = "rules"
[task]
prompts = "train.jsonl"
test = "test.jsonl"
validation_size = 2
verifier = ["json_schema:number.schema.json", "fields"]
[train]
"""
        + "\n".join(f"{name} = {value}" for name, value in settings.items())
        + """
[discriminator]
warmup_steps = 1
[feedback]
preferences = 2
corrections = 2
"""
    )
    return config
