from datamodules.policy.prompts import Prompt, with_other_images


def test_other_images_come_from_half_the_list_away():
    def prompt(name, source, images):
        return Prompt(name, "q", (f"{name}.png",), "1", source, lambda: images, None)

    prompts = [prompt(str(i), "a", [i]) for i in range(4)] + [prompt("b", "b", [7]), prompt("text", "a", [])]
    changed = with_other_images(prompts)
    assert [p.load_images() for p in changed] == [[2], [3], [0], [1], [7], []]
    assert [p.prompt_id for p in changed] == ["0", "1", "2", "3", "b", "text"]
    assert all(p.image_names == () for p in changed)
