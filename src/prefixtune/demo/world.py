"""Text about places to eat on an invented coast: what the shipped decoder was pretrained on, and its two tasks.

A *place* is a handful of attributes; a *register* is a way to write about it (a guide book, a review, a postcard,
gossip, the news, an advertisement). A pretraining document is the record of a place followed by one to three
registers in random order, so a model of these documents knows all registers and no reason to prefer one. The two
tasks ask for one register each, in a house style: everything the record says, in a fixed order.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prefixtune.demo.words import ADJECTIVES, FOODS, GUESTS, KINDS, NOUNS, OWNERS, PRICES, SPOTS, TOWNS

ALWAYS = ("name", "kind", "rating")
SOMETIMES = ("town", "spot", "food", "price", "owner")


@dataclass(frozen=True)
class Place:
    """What is known of one place; an attribute nobody knows is None."""

    name: str
    kind: str
    rating: int
    town: str | None = None
    spot: str | None = None
    food: str | None = None
    price: str | None = None
    owner: str | None = None

    @property
    def held_out(self) -> bool:
        """A tenth of all names is kept from pretraining and from every training split, whatever the seed."""
        return zlib.crc32(self.name.encode()) % 10 == 0


def new_name(rng: random.Random) -> str:
    return f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def new_place(rng: random.Random, held_out: bool, least: int = 2) -> Place:
    """A random place with at least `least` of the five optional attributes, its name held out or not."""
    full = {
        "town": rng.choice(TOWNS),
        "spot": rng.choice(SPOTS),
        "food": rng.choice(FOODS),
        "price": rng.choice(PRICES),
        "owner": rng.choice(OWNERS),
    }
    known = rng.sample(SOMETIMES, rng.randint(least, len(SOMETIMES)))
    while True:
        place = Place(new_name(rng), rng.choice(KINDS), rng.randint(1, 5), **{key: full[key] for key in known})
        if place.held_out == held_out:
            return place


def record(place: Place, rng: random.Random) -> str:
    """The place as a line of attributes: the name first, the others in random order."""
    values = {key: getattr(place, key) for key in (*ALWAYS[1:], *SOMETIMES)}
    lines = [f"{key}: {value}" + (" of 5" if key == "rating" else "") for key, value in values.items() if value]
    rng.shuffle(lines)
    return " | ".join([f"name: {place.name}", *lines])


# ---- registers: each takes a place and a random source, and says some of what is known ----

LOVE = {
    5: ("I adore {name}!", "{name} is pure joy.", "What a find {name} is!"),
    4: ("I liked {name} a lot.", "{name} was a pleasant surprise.", "We had a good time at {name}."),
    3: ("{name} is neither good nor bad.", "I have mixed feelings about {name}.", "{name} will do."),
    2: ("{name} let us down.", "I had hoped for more from {name}.", "{name} was a disappointment."),
    1: ("Never again {name}!", "{name} was a disaster.", "Do not waste your evening at {name}."),
}
TASTE = {
    5: ("The {food} was heavenly.", "I still dream of the {food}."),
    4: ("The {food} was very good.", "We enjoyed the {food}."),
    3: ("The {food} was all right.", "The {food} was fine, no more."),
    2: ("The {food} was bland.", "The {food} came late and cold."),
    1: ("The {food} was awful.", "The {food} went straight back to the kitchen."),
}
HOST = {
    5: ("{owner} welcomed us like old friends.", "{owner} is the kindest host I know."),
    4: ("{owner} was friendly.", "{owner} looked after us well."),
    3: ("{owner} was polite enough.", "{owner} was busy that day."),
    2: ("{owner} hardly looked up.", "{owner} seemed tired of guests."),
    1: ("{owner} shouted at us.", "{owner} did not even say hello."),
}
BILL = {
    "cheap": ("The bill was tiny.", "We paid next to nothing."),
    "mid-priced": ("The bill was fair.", "We paid what it was worth."),
    "expensive": ("The bill made me gasp.", "We paid a small fortune."),
}
BACK = {
    5: ("I will be back tomorrow.", "I could move in there."),
    4: ("I will be back.", "We will come again."),
    3: ("I may be back one day.", "Maybe another time."),
    2: ("I doubt that I will be back.", "There are better places."),
    1: ("I will not be back.", "They should close it."),
}
LEVEL = {"cheap": "low", "mid-priced": "fair", "expensive": "high"}


def article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def where(place: Place) -> str:
    """' by the harbour in Aldmere', as much of it as is known, with its leading space."""
    return "".join([f" {place.spot}" if place.spot else "", f" in {place.town}" if place.town else ""])


def guide(place: Place, rng: random.Random) -> str:
    kind = f"{place.price} {place.kind}" if place.price and rng.random() < 0.5 else place.kind
    openings = [f"{place.name} is {article(kind)}{where(place)}.", f"You will find {place.name}{where(place)}."]
    if place.town:
        openings.append(f"{place.town} has {article(kind)} called {place.name}.")
    rest = [rng.choice((f"Guests give it {place.rating} of 5.", f"Its rating is {place.rating} of 5."))]
    if place.food:
        food = place.food
        rest.append(rng.choice((f"It serves {food}.", f"Most guests come for the {food}.", f"Try the {food}.")))
    if place.owner:
        rest.append(rng.choice((f"{place.owner} runs it.", f"It belongs to {place.owner}.")))
    if place.price and kind == place.kind:
        rest.append(rng.choice((f"Prices are {LEVEL[place.price]}.", f"It is {place.price}.")))
    rng.shuffle(rest)
    return " ".join([rng.choice(openings), *rest[: rng.randint(1, len(rest))]])


def review(place: Place, rng: random.Random) -> str:
    middle = []
    if place.food:
        middle.append(rng.choice(TASTE[place.rating]).format(food=place.food))
    if place.owner:
        middle.append(rng.choice(HOST[place.rating]).format(owner=place.owner))
    if place.price:
        middle.append(rng.choice(BILL[place.price]))
    rng.shuffle(middle)
    middle = middle[: rng.randint(0, len(middle))]
    closing = [rng.choice(BACK[place.rating])] if rng.random() < 0.7 else []
    return " ".join([rng.choice(LOVE[place.rating]).format(name=place.name), *middle, *closing])


def postcard(place: Place, rng: random.Random) -> str:
    reader, writer = rng.sample(GUESTS, 2)
    hello = f"Dear {reader}, greetings from {place.town or 'the coast'}!"
    meal = f"Today we had {place.food or 'a long lunch'} at {place.name}{' ' + place.spot if place.spot else ''}."
    mood = rng.choice(("The sun is out.", "It rains all day.", "The children are happy.", "We miss you."))
    middle = [meal, mood, *([f"{place.owner} sends regards."] if place.owner else [])]
    rng.shuffle(middle)
    return " ".join([hello, *middle, f"Love, {writer}"])


def gossip(place: Place, rng: random.Random) -> str:
    asker, teller = rng.sample(GUESTS, 2)
    question = f'"Where can I get {place.food or "something to eat"}{" in " + place.town if place.town else ""}?"'
    hint = place.spot or f"the {place.kind}"
    answer = rng.choice((f'"At {place.name}, {hint},"', f'"Go to {place.name}, {hint},"'))
    lines = [f"{question} asked {asker}.", f"{answer} said {teller}."]
    if place.owner:
        lines.append(rng.choice((f'"Say hello to {place.owner}!"', f'"{place.owner} will look after you."')))
    return " ".join(lines)


def news(place: Place, rng: random.Random) -> str:
    events = [f"The {place.kind} {place.name}{where(place)} opens again on Sunday."]
    if place.owner:
        events.append(f"{place.owner} has bought the {place.kind} {place.name}{where(place)}.")
    if place.food:
        events.append(f"The {place.food} of {place.name} won a prize{' in ' + place.town if place.town else ''}.")
    if place.price:
        events.append(f"Prices at {place.name} stay {LEVEL[place.price]}, says {place.owner or 'the owner'}.")
    start = rng.choice(("LOCAL NEWS:", "THIS WEEK:", "JUST IN:"))
    return " ".join([start, *rng.sample(events, min(len(events), rng.randint(1, 2)))])


def advert(place: Place, rng: random.Random) -> str:
    start = rng.choice(("Hungry?", "Tired of cooking?", "Nothing at home?"))
    lines = [f"Come to {place.name}{where(place)}!"]
    if place.food:
        lines.append(rng.choice((f"Fresh {place.food} every day!", f"Our {place.food} waits for you!")))
    if place.price == "cheap":
        lines.append("Small prices, big plates!")
    if place.owner:
        lines.append(f"Ask for {place.owner}!")
    return " ".join([start, *lines])


REGISTERS: tuple[Callable[[Place, random.Random], str], ...] = (guide, review, postcard, gossip, news, advert)


def documents(seed: int, held_out: bool = False) -> Iterator[str]:
    """Pretraining documents without end, a line each: a record (nine times in ten) and one to three registers.

    One document in three has the record a second time, in another order: that is where a small model learns soonest
    to copy from the record.
    """
    rng = random.Random(seed)
    while True:
        place = new_place(rng, held_out)
        lines = [register(place, rng) for register in rng.sample(REGISTERS, rng.randint(1, 3))]
        if rng.random() < 1 / 3:
            lines.insert(rng.randint(0, len(lines)), record(place, rng))
        if rng.random() < 0.9:
            lines.insert(0, record(place, rng))
        yield "\n".join(lines)


# ---- the two tasks: one register each, in a house style ----


def describe(place: Place) -> str:
    """House style of the guide book: kind, price and spot, then food, owner and rating."""
    kind = f"{place.price} {place.kind}" if place.price else place.kind
    lines = [f"{place.name} is {article(kind)}{where(place)}."]
    lines += [f"It serves {place.food}."] if place.food else []
    lines += [f"{place.owner} runs it."] if place.owner else []
    return " ".join([*lines, f"Guests give it {place.rating} of 5."])


def complain_or_praise(place: Place) -> str:
    """House style of the reviewer: the mood follows the rating; food, host, bill, and whether to come back."""
    lines = [LOVE[place.rating][0].format(name=place.name)]
    lines += [TASTE[place.rating][0].format(food=place.food)] if place.food else []
    lines += [HOST[place.rating][0].format(owner=place.owner)] if place.owner else []
    lines += [BILL[place.price][0]] if place.price else []
    return " ".join([*lines, BACK[place.rating][0]])


TASKS: dict[str, Callable[[Place], str]] = {"guide": describe, "review": complain_or_praise}


def task_rows(task: str, count: int, seed: int, held_out: bool) -> list[dict[str, str]]:
    """`count` rows of `source` (the record) and `target` (the answer); the same seed gives the same sources."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        place = new_place(rng, held_out, least=3)
        rows.append({"source": record(place, rng), "target": TASKS[task](place)})
    return rows
