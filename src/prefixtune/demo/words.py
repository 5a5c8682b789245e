"""The words of the demo's two small worlds: places to eat on an invented coast, and parcels on their way."""

from __future__ import annotations

ADJECTIVES = (
    "Copper Silver Golden Crooked Sleepy Merry Hidden Blue Crimson Quiet Rusty Velvet Wandering Salty Lucky Hungry "
    "Painted Broken Gentle Northern Winter Summer Marble Wooden Laughing Little Grand Brass Ivory Amber Humble Dancing "
    "Green White Black Speckled Honest Lonely Singing Iron"
).split()
NOUNS = (
    "Kettle Anchor Lantern Spoon Heron Otter Barrel Pigeon Ladle Apron Harp Whistle Fox Badger Oyster Turnip Candle "
    "Compass Feather Mill Bridge Crown Goose Hammer Ladder Mitten Nutmeg Onion Parrot Quill Rudder Saddle Thimble "
    "Umbrella Violin Wagon Acorn Bell Cellar Drum"
).split()
TOWNS = (
    "Aldmere Brightwell Carrow Dunsley Eastholm Farnby Gullhaven Hexford Inverlea Jerrold Kelmouth Lowick Marsden "
    "Nethercott Oakhurst Penhallow Quayside Ravenby Stowell Thornsea Ulverstone Wexcombe Yarrowby Zennor"
).split()
OWNERS = (
    "Ada Bruno Dmitri Elena Felix Greta Hugo Ingrid Kira Mabel Nils Olga Pablo Quentin Stefan Tilda Ursula Viktor "
    "Wanda Yusuf Zora Agnes Boris Celia"
).split()
GUESTS = "Anna Ben Clara Daniel Emma Frank Helen Ian Julia Karl Laura Martin Nora Oscar Paula Robert Sara Tom".split()
KINDS = ("bakery", "tavern", "tea room", "fish house", "noodle bar", "coffee house", "pancake house", "soup kitchen")
FOODS = (
    "onion soup", "fish pie", "plum cake", "rye bread", "smoked eel", "apple tart", "lamb stew", "mussel broth",
    "cheese fondue", "gingerbread", "roast duck", "pea soup", "lemon pudding", "crab salad", "bean stew",
    "walnut bread", "herring salad", "honey cake", "mushroom pie", "garlic soup", "pear crumble", "potato gratin",
    "beetroot soup", "poppy seed cake",
)  # fmt: skip
SPOTS = (
    "by the harbour", "behind the station", "on the market square", "next to the old mill", "near the lighthouse",
    "opposite the town hall", "beside the river", "at the end of the pier", "above the post office",
    "under the railway arches", "across from the theatre", "at the foot of the hill",
)  # fmt: skip
PRICES = ("cheap", "mid-priced", "expensive")

SENDERS = {
    "train": (
        "Mr Weston", "Ada Lincoln", "Dr Kingsley", "Florence Park", "Mrs Hamilton", "Austin Reed", "Sydney Burns",
        "Ms Okafor", "Jordan Blake", "Professor Lund", "Chelsea Wright", "Omar Haddad", "Mr Bristol", "Ines Duarte",
        "Mrs York", "Paris Delgado", "Hanna Koch", "Captain Derby", "Mei Tanaka", "Victoria Ashe",
    ),
    "test": (
        "Mr Durham", "Charlotte Webb", "Dr Preston", "Madison Clarke", "Mrs Bradford", "Tyler Houston", "Ms Nakamura",
        "Dallas Moore", "Professor Silva", "Georgia Lane", "Ravi Menon", "Mr Carlisle", "Lena Fischer", "Mrs Chester",
    ),
}  # fmt: skip
CITIES = {
    "train": (
        "Lisbon", "Weston", "Oslo", "Lincoln", "Florence", "Austin", "Sydney", "Bristol", "Kyoto", "Hamilton", "York",
        "Tunis", "Derby", "Paris", "Riga", "New Orleans", "Kingsley", "Cape Town", "Geneva", "Victoria",
    ),
    "test": (
        "Durham", "Charlotte", "Madrid", "Preston", "Madison", "Houston", "Bradford", "Dallas", "Helsinki", "Carlisle",
        "Buenos Aires", "Chester", "Nairobi", "San Diego",
    ),
}  # fmt: skip
ITEMS = {
    "train": (
        "violin", "box of lamps", "grey suitcase", "signed contract", "garden bench", "wedding dress", "coffee grinder",
        "crate of oranges", "laptop", "landscape painting", "spare tyre", "typewriter", "wool blanket",
        "pair of bicycles", "stack of maps", "microscope",
    ),
    "test": (
        "cello", "case of wine", "passport", "rocking chair", "fur coat", "telescope", "tax return",
        "bag of seeds", "camera", "bronze statue", "printer", "chess set",
    ),
}  # fmt: skip
DAYS = {
    "train": (
        "Monday", "Tuesday morning", "3 May", "the end of June", "Friday", "tomorrow", "12 August", "next week",
        "Saturday night", "the first of March",
    ),
    "test": ("Wednesday", "Thursday evening", "7 April", "the middle of July", "Sunday", "21 October", "next month"),
}  # fmt: skip
