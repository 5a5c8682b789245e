"""Messages to a parcel desk, tagged: who sends what to whom, from where to where, by when.

The roles are told apart by the sentence, not by the word: the same kind of name is a sender in one message, the
recipient in the next, and a bystander (no role at all) in a third. The test split shares nothing with the training
split but everyday words: other people, cities, things, days, and other sentence patterns.
"""

from __future__ import annotations

import random
import re

from prefixtune.demo.words import CITIES, DAYS, ITEMS, SENDERS

ROLES = ("SENDER", "RECIPIENT", "ITEM", "ORIGIN", "DESTINATION", "DAY")
TAGS = ("O", *(f"{mark}-{role}" for role in ROLES for mark in "BI"))

# Filled in below. {someone} and {somewhere} are bystanders: filled like a person and a city, tagged O.
PATTERNS = {
    "train": (
        "please send the {item} from {origin} to {destination} , {recipient} needs it by {day} .",
        "{sender} would like the {item} brought to {recipient} in {destination} before {day} .",
        "can you collect the {item} from {sender} in {origin} on {day} ?",
        "the {item} belongs to {recipient} , who moved from {somewhere} to {destination} .",
        "{sender} is sending a parcel to {recipient} : a {item} , due on {day} .",
        "on {day} the {item} leaves {origin} for {destination} .",
        "this is {sender} speaking , my {item} must reach {destination} , not {somewhere} , by {day} .",
        "hand the {item} to {recipient} in person , do not leave it with {someone} .",
        "from : {sender} , {origin} . to : {recipient} , {destination} . contents : {item} .",
        "{someone} told me that {sender} shipped the {item} to {destination} last year .",
        "has the {item} for {recipient} left {origin} yet ?",
        "{recipient} in {destination} expects a {item} from {sender} on {day} .",
        "the driver passes {somewhere} and drops the {item} in {destination} on {day} .",
        "i bought the {item} from {sender} and want it here in {destination} by {day} .",
        "pick up at {origin} , deliver at {destination} , one {item} , ask for {recipient} .",
        "a gift from {sender} for {recipient} : please keep the {item} dry .",
        "{recipient} lives in {destination} now and misses the {item} .",
        "give this {item} to {recipient} , and say that {sender} sent it .",
        "the {item} which {sender} mailed from {origin} arrived in {destination} on {day} .",
        "{sender} wants to know if {recipient} got the {item} .",
        "{recipient} called twice about the {item} , it was promised for {day} .",
        "my name is {sender} , i live in {origin} , and i have a {item} for {recipient} .",
        "our office in {somewhere} is closed , bring the {item} to {destination} .",
        "is {day} too late to get a {item} to {recipient} ?",
        "{someone} and i carried the {item} to the depot in {origin} on {day} .",
        "deliver to {recipient} , {destination} . collect from {sender} , {origin} . not later than {day} .",
        "by {day} at the latest , {recipient} should hold the {item} in her hands .",
        "we still have the {item} of {sender} here in {origin} , it goes out on {day} .",
        "take the road from {origin} through {somewhere} to {destination} with the {item} .",
        "dear desk , i am {recipient} and wait for my {item} since {someone} left .",
        "bring it to {recipient} ; {someone} will not be at home on {day} .",
        "{sender} packed the {item} , {someone} weighed it , and {recipient} will unpack it .",
    ),
    "test": (
        "kindly forward the {item} to {recipient} , now living in {destination} .",
        "{sender} in {origin} has a {item} ready for {recipient} , deadline {day} .",
        "we were in {somewhere} when {sender} posted the {item} to {recipient} .",
        "my aunt {someone} asks whether the {item} reaches {destination} on {day} .",
        "{recipient} has been waiting for the {item} that {sender} promised for {day} .",
        "route : {origin} to {destination} via {somewhere} , load : {item} .",
        "please fetch my {item} in {origin} and take it to {destination} , signed {sender} .",
        "until {day} the {item} stays in {origin} , then it goes to {recipient} .",
        "{sender} has handed in a {item} , to be given to {recipient} and nobody else .",
        "could the {item} travel from {origin} to {destination} before {day} ?",
        "tell {recipient} that the {item} from {sender} comes on {day} .",
        "{someone} saw the {item} in {origin} , but it belongs in {destination} .",
    ),
}
OPENINGS = ("", "", "", "hello ,", "urgent :", "good morning ,", "dear team ,", "one more thing :")
CLOSINGS = ("", "", "", "thank you !", "many thanks .", "call me if not .")


def fill(pattern: str, split: str, rng: random.Random) -> dict[str, list[str]]:
    """One message as `tokens` and BIO `tags`; no name or city is used twice in it."""
    people, cities = rng.sample(SENDERS[split], 3), rng.sample(CITIES[split], 3)
    values = {
        "sender": people[0], "recipient": people[1], "someone": people[2],
        "origin": cities[0], "destination": cities[1], "somewhere": cities[2],
        "item": rng.choice(ITEMS[split]), "day": rng.choice(DAYS[split]),
    }  # fmt: skip
    tokens: list[str] = []
    tags: list[str] = []
    for piece in re.findall(r"\{\w+\}|[^{}\s]+", pattern):
        slot = piece.strip("{}")
        words = values[slot].split() if piece.startswith("{") else [piece]
        role = slot.upper() if piece.startswith("{") and slot.upper() in ROLES else None
        tokens += words
        tags += [f"{'I' if i else 'B'}-{role}" if role else "O" for i in range(len(words))]
    return {"tokens": tokens, "tags": tags}


def messages(split: str, count: int, seed: int) -> list[dict[str, list[str]]]:
    """`count` messages of the split `train` or `test`."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        pattern = f"{rng.choice(OPENINGS)} {rng.choice(PATTERNS[split])} {rng.choice(CLOSINGS)}"
        rows.append(fill(pattern, split, rng))
    return rows
