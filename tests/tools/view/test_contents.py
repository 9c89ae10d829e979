from tools.view.contents import Question, Solution


def question(*solutions):
    return Question("MMMU", "policy", "1", "Which?", ["A"], (), list(solutions))


def test_the_earlier_one_wins_a_tie():
    found = question(
        Solution("0", ["a"], score=0.2, answer_class=0),
        Solution("1", ["b"], score=0.7, answer_class=1),
        Solution("2", ["c"], score=0.7, answer_class=1),
    )
    assert found.picks() == {"model": 1, "vote": 1}


def test_no_pick_without_its_data():
    assert question(Solution("0", ["a"]), Solution("1", ["b"], score=0.7)).picks() == {}
    assert question(Solution("0", ["a"], answer_class=-1), Solution("1", ["b"], answer_class=0)).picks() == {"vote": 1}


def test_what_is_not_known_is_left_out():
    known = question(Solution("0", ["a"], scores=[0.5], is_right=False)).as_json([4])
    assert known["solutions"] == [{"name": "0", "steps": ["a"], "scores": [0.5], "is_right": False}]
    assert known["pictures"] == [4]
