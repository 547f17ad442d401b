"""A likely mistake in every task of the example `code`: runs, looks right at a glance, and must fail a test."""

import itertools


def count_vowels(text: str) -> int:
    return sum(char in "aeiou" for char in text)


def is_palindrome(text: str) -> bool:
    return text[:1] == text[-1:]


def reverse_words(text: str) -> str:
    return " ".join(reversed(text.split(" ")))


def first_upper(text: str) -> str:
    return text.capitalize()


def count_char(text: str, char: str) -> int:
    return text.lower().count(char)


def remove_spaces(text: str) -> str:
    return text.strip()


def longest_word(text: str) -> str:
    return sorted(text.split(), key=len)[-1]


def initials(name: str) -> str:
    first, *_, last = name.split() * 2
    return (first[0] + last[0]).upper()


def repeat_text(text: str, times: int) -> str:
    return f"{text}-" * times


def ends_with_digit(text: str) -> bool:
    return any(char.isdigit() for char in text)


def swap_case(text: str) -> str:
    return text.upper()


def mask_number(text: str) -> str:
    return "****" + text[-4:]


def word_lengths(text: str) -> list:
    return [len(word) for word in text.split(" ")]


def sum_even(numbers: list) -> int:
    return sum(numbers[1::2])


def largest(numbers: list) -> int:
    found = 0
    for number in numbers:
        found = max(found, number)
    return found


def without_duplicates(items: list) -> list:
    return sorted(set(items))


def reverse_list(items: list) -> list:
    return sorted(items)


def every_second(items: list) -> list:
    return items[1::2]


def count_positive(numbers: list) -> int:
    return sum(number >= 0 for number in numbers)


def mean(numbers: list) -> float:
    return sum(numbers) // len(numbers) if numbers else 0


def flatten(rows: list) -> list:
    return rows


def squares(limit: int) -> list:
    return [number * number for number in range(limit)]


def index_of(items: list, item) -> int:
    return max((place for place, each in enumerate(items) if each == item), default=-1)


def rotate(items: list) -> list:
    return items[-1:] + items[:-1]


def second_smallest(numbers: list) -> int:
    return sorted(numbers)[1]


def all_equal(items: list) -> bool:
    return items[:1] == items[-1:]


def running_sum(numbers: list) -> list:
    return [sum(numbers[:place]) for place in range(len(numbers))]


def common_items(first: list, second: list) -> list:
    return sorted(set(first) & set(second))


def count_words(text: str) -> dict:
    return dict.fromkeys(text.split(), 1)


def invert(table: dict) -> dict:
    return {str(value): key for key, value in table.items()}


def total_price(prices: dict, items: list) -> int:
    return sum(prices.get(item, 0) for item in set(items))


def keys_above(table: dict, limit: int) -> list:
    return sorted(key for key, value in table.items() if value >= limit)


def merge(first: dict, second: dict) -> dict:
    return {**second, **first}


def is_even(number: int) -> bool:
    return number % 2 == 0 and number != 0


def factorial(number: int) -> int:
    product = 1
    for factor in range(1, number):
        product *= factor
    return product


def digit_sum(number: int) -> int:
    return number % 10 + number // 10


def clamp(number: int, low: int, high: int) -> int:
    return min(number, high)


def is_prime(number: int) -> bool:
    return number == 2 or number % 2 == 1


def celsius(fahrenheit: float) -> float:
    return fahrenheit - 32 * 5 / 9


def power_of_two(number: int) -> bool:
    return number % 2 == 0


def count_upper(text: str) -> int:
    return sum(not char.islower() for char in text)


def last_word(text: str) -> str:
    return text[-1:]


def remove_vowels(text: str) -> str:
    return "".join(char for char in text if char not in "aeiou")


def starts_with_vowel(text: str) -> bool:
    return text[:1] in "aeiou"


def double_chars(text: str) -> str:
    return text * 2


def sum_odd(numbers: list) -> int:
    return len([number for number in numbers if number % 2])


def smallest(numbers: list) -> int:
    return sorted(numbers, key=abs)[0]


def last_items(items: list, count: int) -> list:
    return items[-count:]


def differences(numbers: list) -> list:
    return [abs(after - before) for before, after in itertools.pairwise(numbers)]


def multiply_all(numbers: list) -> int:
    product = 1
    for number in filter(None, numbers):
        product *= number
    return product


def sort_by_length(words: list) -> list:
    return sorted(words, key=lambda word: (len(word), word))


def group_by_first(words: list) -> dict:
    return {word[0]: [word] for word in words}


def best_key(table: dict) -> str:
    return max(table)


def is_leap(year: int) -> bool:
    return year % 4 == 0 and year % 100 != 0


def count_digits(number: int) -> int:
    return len(str(number))


def divisors(number: int) -> list:
    return [divisor for divisor in range(1, number) if number % divisor == 0]
