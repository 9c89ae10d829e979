"""What tests/distributed/test_serving.py runs in two processes: sources of different lengths, sharded weights."""

import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from sharded_jobs import rank, sharded

from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine
from lightning_modules.policy import Policy

STEPS = ["The digits are 3, 7 and 9.\n\n", "The digits are 3, 7 and 9.\n\nSo 3 + 4 = 7.\n\n"]


def request(name, number_of_pictures, partial="", samples=2):
    """A question about some pictures."""
    pictures = [
        Image.frombytes("RGB", (32, 32), bytes((7 * index * (number + 2) + len(name)) % 256 for index in range(3072)))
        for number in range(number_of_pictures)
    ]
    content = [*[{"type": "image"}] * number_of_pictures, {"type": "text", "text": f"How many of {name}?"}]
    keys = [f"{name}/{partial}/{sample}" for sample in range(samples)]
    return GenerationRequest([{"role": "user", "content": content}], pictures, keys, partial)


def long(asked):
    """The same request with a higher limit of tokens."""
    return replace(asked, parameters=SamplingParameters(temperature=1.0, max_new_tokens=30, seed=3))


CALLS = {
    "one rank has none": [[request("digits", 1), request("digits", 1, STEPS[0]), request("digits", 1, STEPS[1])], []],
    "the other has none": [[], [request("digits", 2, samples=5), request("letters", 0)]],
    "texts alone beside pictures": [
        [request("numbers", 0, samples=1)],
        [long(request("bars", 1, STEPS[1], samples=7)), request("digits", 2), request("lines", 1, STEPS[0])],
    ],
    "both have none": [[], []],
    "equally many": [[request("a", 1)], [request("b", 1)]],
}


class Source:
    """Hands out a list of requests, and keeps the answers in its order."""

    def __init__(self, requests):
        self.requests, self.taken, self.texts = requests, 0, [None] * len(requests)

    def take(self, room):
        begin = self.taken
        for asked in self.requests[begin:]:
            room -= len(asked.sample_keys)
            if room < 0 and (self.taken or None in self.texts[:begin]):
                break
            self.taken += 1
        return self.requests[begin : self.taken]

    def receive(self, asked, texts):
        self.texts[self.requests.index(asked)] = [list(text) for text in texts]


def texts_of(engine, calls):
    """The texts of some calls, each a list of requests."""
    sources = [Source(asked) for asked in calls]
    for source in sources:
        engine.serve(source, SamplingParameters(temperature=1.0, max_new_tokens=10, seed=3))
    return [source.texts for source in sources]


def prepared(module):
    """An engine for a module's model, where every eighth token ends a text."""
    model = module.backbone
    model.generation_config.eos_token_id = list(range(1, model.config.get_text_config().vocab_size, 8))
    engine = TransformersEngine(max_samples_at_once=4)
    engine.attach(model, module.processor)
    return engine


def main(folder, families):
    """Serve every call with a sharded policy; rank zero also answers all requests by itself, one after another."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {}
    for family in families:
        path = str(Path(folder) / family)
        module = sharded(lambda path=path: Policy(path)).eval()
        module.on_validation_start()  # adds the dummy image
        engine = prepared(module)
        assert engine.needs_all_ranks
        forwards = []
        module.backbone.base_model.register_forward_pre_hook(lambda *_, forwards=forwards: forwards.append(1))
        texts = texts_of(engine, [calls[rank()] for calls in CALLS.values()])
        everyone = [(texts, len(forwards))] * dist.get_world_size()
        dist.all_gather_object(everyone, (texts, len(forwards)))
        if rank() == 0:
            alone = prepared(Policy(path).eval())
            assert not alone.needs_all_ranks
            expected = [
                [[texts_of(alone, [[asked]])[0][0] for asked in of_rank] for of_rank in calls]
                for calls in CALLS.values()
            ]
            found[family] = {"found": everyone, "expected": list(zip(*expected, strict=True))}
    if rank() == 0:
        (Path(folder) / "texts.json").write_text(json.dumps(found))
    dist.barrier()
