r"""Sentences that state an answer of MathVista in other words than those of its options.

The responses are our own. :data:`STATEMENTS` has them in the form of :mod:`response_cases`.
"""

YES_NO = ("Yes", "No")
LETTERS = ("A", "B", "C", "D", "E")

# A question with its options (none where a number is asked for); then, line by line, what a response shows, the right
# answer, + if the response gives it and - if not, and the response. ¶ ends a line of a text.
_CASES = r"""
Question: Are there more red ships in the small dock than blue tugs?¶Choices:¶(A) Yes¶(B) No | Yes | No
compared: A + There are more red ships in the small dock than blue tugs.
compared: B + There are more blue tugs in the small dock than red ships.
compared: A - There are more blue tugs in the small dock than red ships.
compared: B + There are fewer red ships in the small dock than blue tugs.
compared: B - There are more blue tugs in the large dock than red ships.
compared: B - There are more blue ships in the small dock than red tugs.
not fewer: A - There are not fewer red ships in the small dock than blue tugs.

Does Peru have a lower share than Chile? | Yes | No
property: A + The share of Peru is lower than Chile.
property: B + The share of Peru is higher than Chile.
property: A - The share of Chile is lower than Peru.

Question: Is the number of lamps that are under the shelf greater than the number of green vases? | Yes | No
clause left out: A + So the number of lamps is greater than the number of green vases.
clause left out: A - I see 3. The number of lamps is greater than the number of green vases.

Is the number of buses less than the number of cars? | Yes | No
counts: B + There are more buses than cars.

Is the number of buss less than the number of cars? | Yes | No
counts: A + There are more cars than buses.

Is the jar half empty? | Yes | No
place: A + The jar in the kitchen is half empty.
place: A - The jar in the left is half empty.

Can the cat reach the shelf? | Yes | No
place: A + The cat can reach the shelf in the corner, as it is tall.

Is there a cat? | Yes | No
place: B - There is not a cat on the roof.

Do the doors have a colour that most doors have? | Yes | No
denied inside: B + The doors in the hall have a colour that most doors do not have.

Does the red line have a smaller slope? | Yes | No
others: A + The red line has a smaller slope compared to the other lines.

Is the slope smaller compared to the other lines? | Yes | No
others: A + The slope is smaller compared to the other lines.

Is the red line smaller? | Yes | No
others: A - The red line is smaller compared to the blue line.

Are these boats moored in a row? | Yes | No
these: A + The boats are moored in a row, as they touch.

Is \sum_n 1/n finite according to this graph? | Yes | No
source: B + The sum \sum_n 1/n is not finite.

Among the towns, does Ulm have the top rank? | Yes | No
among: B + Ulm does not have the top rank.
among: A + Among the towns, Ulm has the top rank.
among: A - Among the villages, Ulm has the top rank.

Is this a hollow cylinder? | Yes | No
this: A + The cylinder in the image is a hollow cylinder.
this: A + This is a hollow cylinder.

Is this a function of x? | Yes | No
this: A + This is a function of x.

If the frogs were gone, what would happen to the flies? | it would increase | it would also decrease | nothing happens
what would be: B + If the frogs were gone, the flies would likely decrease as well.
what would be: A - If the frogs were gone, the flies would likely decrease as well.
what would be: B + The flies would decrease if the frogs were gone.
another subject: B - The storks would decrease if the frogs were gone.
what would be: B - The flies would increase or, if it rains, would decrease.
what would be: B - If the frogs were gone, the flies would not decrease.

If a kite has 2 right angles, what is it called? | cyclic | concave | regular
number repeated: A + If a kite has 2 right angles, it is called cyclic.
number repeated: A - If a kite has 3 right angles, it is called cyclic.

Imagine no owl hunts. How does that affect the farm? | owls will leave | mice will multiply
imagine: B + If no owl hunts, it is most likely that the mice will multiply.

? | the level will rise | the level will fall
hedged: A + So the level will most likely rise.

If it were dry, what would suffer? | worms | birds
caveat: A + If it were dry, the worms would suffer.¶¶However, this would also depend on the soil.
caveat: A + If it were dry, the worms would suffer. It is difficult to predict the exact effect without more data.
no caveat: A - If it were dry, the worms might suffer. It is impossible to say without more data.

? | (a, b) = (1, 2) | (a, b) = (2, 1)
end of text: B + It is least at (a, b) = (2, 1).

? | x = 1 | x = 2
end of text: B - The roots are x = 1 and x = 2.

? | 0.1 - 0.3 | 0.3 - 0.5
as shown: B + It falls in the interval of 0.3 - 0.5, as shown in the plot.

? | A | B | C | D | E
bold letter: C + The next picture is **(C)**.¶¶Picture (A) shows a dot, picture (B) shows a line.
bold letter: C - We turn the angle at **C** by the picture (A), then by the picture (B).
bold: C - The first picture is **(B)**, the next picture is **(C)**.¶¶Picture (A) shows a dot, picture (D) a line.

In which week was the harvest the largest?
asked word: 2 - So weeks 3 and 4 came first, not week 2.
asked word: 5 + So the largest harvest was 700 kg, which came in in week 5.
asked word: 5 - So the largest harvest was 700 kg, not that of week 4 or of week 5.
asked word: 4 - So the largest harvest was 700 kg, far more than in week 4.

There are 12 beads in 4 equal bags. There are (_) beads in each bag.
in each: 3 + The 12 beads lie in 4 equal bags, with each bag holding 3 beads.
in each: 4 - The 12 beads lie in 4 equal bags, with each bag holding 3 beads.

How many bags are needed if each bag holds 6?
each of the question: 6 - We take 4, each bag holds 6.

What is the sum?
we add: 9 + The numbers are 4 and 5. If we add them, the sum is 9.
condition: 9 - If it were 4 and 5, the sum is 9.

How many bars are below 9?
shows that: 4 + The chart shows that there are 4 bars with values below 9.

Take 2 away. How many are left?
list of steps: 3 + I see 5 cubes.¶¶1. I take 2 away.¶2. Therefore, there are 3 left after I take 2 away.
"""


def _read(block: str) -> list[tuple]:
    """Cases of a question."""
    head, *lines = block.split("\n")
    question, *options = head.replace("¶", "\n").split(" | ")
    cases = []
    for line in lines:
        kind, _, rest = line.partition(": ")
        gold, sign, response = rest.split(" ", 2)
        answer_type = "letter" if options else "integer"
        response = response.replace("¶", "\n")
        cases.append((kind, "MathVista", answer_type, gold, tuple(options), question, response, sign == "+"))
    return cases


STATEMENTS = [case for block in _CASES.strip().split("\n\n") for case in _read(block)]
