from datamodules.policy.chat import ChatRenderer


def test_prompts_written_out(tiny_processor):
    plain = ChatRenderer(tiny_processor)
    assert plain.prompt("Why?", 0) == "<|user|>Why?<|end|><|assistant|>"
    full = ChatRenderer(tiny_processor, "Think.")
    context = "<IMG_CONTEXT>"
    assert (
        full.prompt("Why?\nBox it.", 1) == f"<|system|>Think.<|end|><|user|>{context}Why?\nBox it.<|end|><|assistant|>"
    )
    assert full.prompt("Is <image> or <image> larger?", 2) == (
        f"<|system|>Think.<|end|><|user|>Is {context} or {context} larger?<|end|><|assistant|>"
    )
    assert plain.conversation("Why?", 0, "So.") == "<|user|>Why?<|end|><|assistant|>So.<|end|>"
