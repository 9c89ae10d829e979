import torch

from lightning_modules.model.prompt_batch import continue_prompt, join_prompts


def prompt(length, **others):
    ids = torch.arange(1, length + 1)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **others}


def test_texts_are_padded_to_the_right():
    joined = join_prompts([prompt(2), prompt(4)], pad_id=9)
    assert joined["input_ids"].tolist() == [[1, 2, 9, 9], [1, 2, 3, 4]]
    assert joined["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_what_belongs_to_tokens_and_what_to_pictures():
    first = prompt(3, token_type_ids=torch.tensor([[0, 1, 1]]), pixel_values=torch.ones(2, 3, 4, 4))
    second = prompt(2)
    third = prompt(1, token_type_ids=torch.tensor([[1]]), pixel_values=2 * torch.ones(1, 3, 4, 4))
    joined = join_prompts([first, second, third], pad_id=0)
    assert joined["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert joined["pixel_values"][:, 0, 0, 0].tolist() == [1, 1, 2]


def test_pictures_with_different_numbers_of_tiles():
    first = prompt(1, pixel_values=torch.ones(1, 3, 3, 2, 2), image_sizes=torch.tensor([[5, 6]]))
    second = prompt(2, pixel_values=torch.ones(2, 1, 3, 2, 2), image_sizes=torch.tensor([[7, 8], [9, 9]]))
    joined = join_prompts([first, second], pad_id=0)
    assert joined["pixel_values"].shape == (3, 3, 3, 2, 2)
    assert joined["pixel_values"].sum((1, 2, 3, 4)).tolist() == [36, 12, 12]
    assert joined["image_sizes"].tolist() == [[5, 6], [7, 8], [9, 9]]


def test_a_prompt_goes_on_as_text():
    longer = continue_prompt(
        prompt(2, token_type_ids=torch.tensor([[0, 1]]), pixel_values=torch.ones(1, 2, 2)), torch.tensor([7, 8, 9])
    )
    assert longer["input_ids"].tolist() == [[1, 2, 7, 8, 9]]
    assert longer["attention_mask"].tolist() == [[1] * 5]
    assert longer["token_type_ids"].tolist() == [[0, 1, 0, 0, 0]]
    assert longer["pixel_values"].shape == (1, 2, 2)
