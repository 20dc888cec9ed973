"""examples/data/llama2: one instruction and its answer in Llama 2's turn markers.

The markers leave out <s> and </s>: the tokenizer adds those, and written here they would be there twice.
"""

from __future__ import annotations

from samples import llama2_words as words
from samples.dice import Dice
from samples.files import text_jsonl
from samples.prose import listed, paragraph, sentence, take_distinct

TRAIN_ROWS, EVAL_ROWS = 256, 32
SEED = 5503
ANSWER_MARK = " [/INST] "

Turns = tuple[str, str]


def make_files() -> dict[str, str]:
    dice = Dice(SEED)

    def make_turn(turn: int) -> str:
        question, answer = TASKS[turn % len(TASKS)](dice)
        return f"[INST] {question}{ANSWER_MARK}{answer}"

    texts = take_distinct(make_turn, TRAIN_ROWS + EVAL_ROWS, answer_mark=ANSWER_MARK)
    mixed = dice.shuffled(texts)
    return {
        "llama2/train.jsonl": text_jsonl(mixed[:TRAIN_ROWS]),
        "llama2/eval.jsonl": text_jsonl(mixed[TRAIN_ROWS:]),
    }


def convert_units(dice: Dice) -> Turns:
    unit, other, factor = dice.pick(words.UNITS)
    count = dice.between(2, 240)
    question = dice.pick(
        (f"Convert {count} {unit} to {other} and show the step.", f"How many {other} are {count} {unit}?",
         f"My source speaks of {count} {unit}, but I think in {other}. Please help.")
    )  # fmt: skip
    answer = dice.pick(
        (
            "multiply by {factor}: {count} × {factor} ≈ {result}, so this is about {result} {other}",
            "{count} {unit} correspond to roughly {result} {other}. The factor between the two is {factor}",
            "take {factor} as the factor: {count} × {factor} makes about {result} {other}",
        )
    )
    result = f"{count * factor:.1f}"
    return question, paragraph(answer.format(factor=factor, count=count, result=result, unit=unit, other=other))


def work_out_discount(dice: Dice) -> Turns:
    goods, price, percent = dice.pick(words.GOODS), 20 * dice.between(1, 20), 5 * dice.between(1, 12)
    off = price * percent // 100
    name = dice.pick(words.NAMES)
    question = dice.pick(
        (
            f"A {goods} costs {price} euros and is reduced by {percent} percent. What do I pay?",
            f"{name} has a voucher of {percent}% for a {goods} at {price} euros. What is left to pay?",
            f"Compute the sale price: {goods}, {price} euros, {percent}% off.",
        )
    )
    answer = dice.pick(
        (
            "{percent} percent of {price} are {off} euros. Subtracting them leaves {rest} euros",
            "you pay {rest} euros, because {off} euros are taken off",
            "first, {price} × {percent} / 100 = {off}. Then {price} − {off} = {rest}. You pay {rest} euros",
        )
    )
    return question, sentence(answer.format(percent=percent, price=price, off=off, rest=price - off))


def average_numbers(dice: Dice) -> Turns:
    numbers = [dice.between(2, 60) for _ in range(dice.between(3, 6))]
    text, what = listed([str(number) for number in numbers]), dice.pick(words.MEASURED)
    question = dice.pick(
        (
            f"Find the mean of the following values, {what}: {text}.",
            f"{dice.pick(words.NAMES)} noted {what}: {text}. Find the average.",
            f"Give me average, smallest and largest value for {text} ({what}).",
        )
    )
    mean = f"{sum(numbers) / len(numbers):.2f}"
    steps = f"the sum is {sum(numbers)} and there are {len(numbers)} values, so the average is {mean}"
    extremes = f"the values run from {min(numbers)} to {max(numbers)}"
    return question, paragraph(steps, extremes)


def sort_words(dice: Dice) -> Turns:
    chosen = dice.draw(words.WORDS, dice.between(4, 8))
    backwards = dice.chance(0.4)
    order = "from Z to A" if backwards else "in alphabetical order"
    question = dice.pick(
        (f"Put these words {order}: {', '.join(chosen)}.", f"Sort {order}, one per line: {listed(chosen)}.")
    )
    ranked = sorted(chosen, reverse=backwards)
    if "one per line" in question:
        return question, "\n".join(ranked)
    return question, f"{', '.join(ranked)}. The first word is {ranked[0]} and the last is {ranked[-1]}."


def write_request(dice: Dice) -> Turns:
    whom, wish, reason = dice.pick(words.REQUESTS)
    name, tone = dice.pick(words.NAMES), dice.pick(("polite", "short and friendly", "formal", "warm"))
    question = dice.pick(
        (f"Write a {tone} message to {whom}: I would like to {wish}, because {reason}. Sign as {name}.",
         f"Draft a {tone} note for {name} to {whom}. Wish: {wish}. Reason: {reason}.")
    )  # fmt: skip
    opening = dice.pick(("Good morning", "Hello", "Dear Sir or Madam", "Good afternoon"))
    plea = dice.pick(("I am writing because I would like to {0}", "would it be possible to {0}?", "may I ask to {0}?"))
    why = dice.pick(("the reason is simple: {0}", "as you may know, {0}", "I ask since {0}"))
    close = dice.pick(("thank you for your help", "please tell me whether that suits you", "many thanks in advance"))
    body = paragraph(plea.format(wish), why.format(reason), close)
    return question, f"{opening},\n{body}\nKind regards, {name}"


def pack_for_trip(dice: Dice) -> Turns:
    trip = dice.pick(tuple(words.TRIPS))
    people, days = (
        dice.pick(("two friends", "a family", "one person", "a couple", "a school group")),
        dice.between(2, 9),
    )
    things = dice.draw(words.TRIPS[trip], dice.between(3, 6))
    question = dice.pick(
        (f"What should {people} pack for {trip}?", f"Make a packing list for {trip}, {days} days, {people}.",
         f"Name {len(things)} useful things for {trip}.")
    )  # fmt: skip
    answer = dice.pick(("Pack these first:", "A short list:", "I would take:"))
    tail = dice.pick(
        (
            "keep papers and medicine in the hand luggage",
            "leave some room for the way back",
            "check the weather the day before",
        )
    )
    return question, answer + "".join(f"\n- {thing}" for thing in things) + f"\n{sentence(tail)}"


def explain_concept(dice: Dice) -> Turns:
    concept, meaning, picture, place = dice.pick(words.CONCEPTS)
    listener = dice.pick(words.LISTENERS)
    question = dice.pick(
        (
            f"Explain {concept} to {listener}.",
            f"What does one mean by {concept}? I have to tell {listener}.",
            f"Give a picture and an example for {concept}.",
            f"Describe {concept} in two or three sentences for {listener}.",
        )
    )
    parts = [
        dice.pick(("in short, {0}", "the idea is that {0}", "{0}")).format(meaning),
        dice.pick(("imagine {0}", "it is like {0}", "a fitting picture is {0}")).format(picture),
        dice.pick(("an example is {0}", "you meet it in daily life: {0}", "think of {0}")).format(place),
    ]
    return question, paragraph(*(parts if dice.chance(0.7) else parts[1:]))


def compare_two(dice: Dice) -> Turns:
    one, for_one, other, for_other = dice.pick(words.PAIRS)
    name = dice.pick(words.NAMES)
    question = dice.pick(
        (f"Compare {one} with {other}.", f"{name} cannot decide between {one} and {other}. What matters?",
         f"List the strengths of {one} and of {other}.", f"Should I pick {one} or {other}?")
    )  # fmt: skip
    first = f"in favour of {one}: {listed(dice.draw(for_one, dice.between(1, 2)))}"
    second = f"in favour of {other}: {listed(dice.draw(for_other, dice.between(1, 2)))}"
    advice = dice.pick(
        (
            "try both before deciding",
            "write down what annoys you today",
            "the budget may settle it",
            "habits count more than features",
        )
    )
    return question, paragraph(first, second, advice)


def write_code(dice: Dice) -> Turns:
    job, name, code, why = dice.pick(words.CODE)
    question = dice.pick(
        (
            f"Write a Python function that {job}.",
            f"Show me a short Python function `{name}` that {job}, with one line of explanation.",
            f"{dice.pick(words.NAMES)} needs code in Python that {job}. Please explain it.",
        )
    )
    return question, f"{code}\n\n{sentence(why)}"


def add_times(dice: Dice) -> Turns:
    start, length = dice.between(72, 240) * 5, dice.between(1, 4) * 60 + dice.between(1, 11) * 5
    end = (start + length) % 1440
    what = dice.pick(("a train leaves", "a film begins", "a rehearsal starts", "a ferry departs", "an exam begins"))
    hours, rest = divmod(length, 60)
    question = f"{what.capitalize()} at {clock(start)} and takes {hours} h {rest:02d} min. When is it over?"
    first = f"{clock(start)} plus {hours} hours is {clock((start + hours * 60) % 1440)}"
    then = f"another {rest} minutes lead to {clock(end)}"
    return question, dice.pick(
        (paragraph(first, then), f"At {clock(end)}. {sentence(f'in all, {length} minutes pass')}")
    )


def clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


def judge_review(dice: Dice) -> Turns:
    product, good = dice.pick(words.PRODUCTS), dice.chance(0.5)
    opinions = dice.draw(words.PRAISE if good else words.BLAME, dice.between(2, 3))
    other = [dice.pick(words.BLAME if good else words.PRAISE)] if dice.chance(0.3) else []
    question = dice.pick(
        ("Is this review positive or negative", "What is the tone of this review", "How does the writer feel")
    )
    verdict = "mostly " * bool(other) + ("positive" if good else "negative")
    quote = f'"{opinions[0]}"'
    reason = dice.pick(
        (f"words such as {quote} show it", f"the clearest sign is {quote}", f"{quote} decides the matter")
    )
    but = f'the remark "{other[0]}" points the other way' if other else ""
    return f"{question} ({product})? {paragraph(*opinions, *other)}", paragraph(verdict, reason, but)


def cook_dish(dice: Dice) -> Turns:
    vegetables, staple, flavour = (
        dice.draw(words.VEGETABLES, 2),
        dice.pick(words.STAPLES),
        dice.pick(words.FLAVOURS),
    )
    question = dice.pick(
        (
            f"I have {listed([*vegetables, staple])}. What can I cook?",
            f"Suggest a simple dish with {vegetables[0]} and {staple}.",
            f"Dinner for {dice.between(2, 6)} with {listed(vegetables)}, {staple} and little time: any idea?",
        )
    )
    steps = (
        f"cook the {staple} until tender",
        f"fry {listed(vegetables)} in a little oil",
        f"season with {flavour}",
        dice.pick(("serve it hot with a green salad", "let it rest for five minutes", "top it with toasted seeds")),
    )
    return question, "\n".join(f"{number}. {sentence(step)}" for number, step in enumerate(steps, 1))


def open_story(dice: Dice) -> Turns:
    hero, place, find = (dice.pick(part) for part in (words.HEROES, words.PLACES, words.FINDS))
    mood = dice.pick(tuple(words.ENDINGS))
    question = dice.pick(
        (
            f"Write a {mood} opening about {hero} {place}.",
            f"Begin a story: {hero}, {find}. The tone is {mood}.",
            f"Two or three {mood} sentences for a tale set {place}, please.",
        )
    )
    scene = f"{place}, {hero} woke before everybody else"
    turn = dice.pick(
        (
            "on the table lay {0}",
            "under the door somebody had pushed {0}",
            "that morning the river brought {0}",
        )
    ).format(find)
    end = dice.pick(words.ENDINGS[mood])
    return question, paragraph(scene, turn, end)


def plan_day(dice: Dice) -> Turns:
    tasks, start = dice.draw(words.TASKS, dice.between(3, 5)), dice.between(7, 13)
    lengths = [15 * dice.between(1, 6) for _ in tasks]
    question = dice.pick(
        (
            f"Plan my day from {start}:00 with {listed(tasks)}.",
            f"{dice.pick(words.NAMES)} plans {listed(tasks)}, starting at {start}:00. Make a timetable.",
            f"Arrange {listed(tasks)} into a schedule that begins at {start}:00.",
        )
    )
    starts = [start * 60 + sum(lengths[:number]) for number in range(len(tasks))]
    lines = [f"{clock(begin)} {task}" for begin, task in zip(starts, tasks, strict=True)]
    return question, "\n".join([*lines, f"{clock(start * 60 + sum(lengths))} free time"])


def summarise_notice(dice: Dice) -> Turns:
    event, details = dice.pick(words.EVENTS)
    spot, day, hour = dice.pick(words.SPOTS), dice.pick(words.DAYS), dice.between(9, 19)
    fee = dice.pick(("admission is free", f"a ticket costs {dice.between(2, 15)} euros"))
    news = f"{event} takes place {spot} on {day} at {hour}:00"
    notice = paragraph(news, *dice.shuffled([*details, fee, *dice.draw(words.SPARE, dice.between(1, 3))]))
    ask = dice.pick(("Summarise in two sentences", "Shorten this notice", "Tell me only what I need to know"))
    return f"{ask}: {notice}", paragraph(f"{event}: {day}, {hour}:00, {spot}", fee, dice.pick(details))


def give_steps(dice: Dice) -> Turns:
    aim, steps = dice.pick(words.GUIDES)
    chosen = dice.draw(steps, dice.between(3, 7))
    question = dice.pick(
        (
            f"How do I {aim}? Give {len(chosen)} tips.",
            f"{dice.pick(words.NAMES)} would like to {aim}. What should be kept in mind?",
            f"Write {len(chosen)} steps for people who want to {aim}.",
        )
    )
    if "steps" in question:
        return question, "\n".join(f"{number}. {sentence(step)}" for number, step in enumerate(chosen, 1))
    return question, paragraph(*chosen)


TASKS = (
    convert_units,
    work_out_discount,
    average_numbers,
    sort_words,
    write_request,
    pack_for_trip,
    explain_concept,
    compare_two,
    write_code,
    add_times,
    judge_review,
    cook_dish,
    open_story,
    plan_day,
    summarise_notice,
    give_steps,
)
