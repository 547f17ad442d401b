"""A right answer to every task of the example `code`, to test its tests with. Not shipped."""

import itertools


def count_vowels(text: str) -> int:
    return sum(char in "aeiou" for char in text.lower())


def is_palindrome(text: str) -> bool:
    return text == text[::-1]


def reverse_words(text: str) -> str:
    return " ".join(reversed(text.split()))


def first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def count_char(text: str, char: str) -> int:
    return text.count(char)


def remove_spaces(text: str) -> str:
    return text.replace(" ", "")


def longest_word(text: str) -> str:
    return max(text.split(), key=len)


def initials(name: str) -> str:
    return "".join(word[0].upper() for word in name.split())


def repeat_text(text: str, times: int) -> str:
    return "-".join([text] * times)


def ends_with_digit(text: str) -> bool:
    return text[-1:].isdigit()


def swap_case(text: str) -> str:
    return text.swapcase()


def mask_number(text: str) -> str:
    return "*" * (len(text) - 4) + text[-4:]


def word_lengths(text: str) -> list:
    return [len(word) for word in text.split()]


def sum_even(numbers: list) -> int:
    return sum(number for number in numbers if number % 2 == 0)


def largest(numbers: list) -> int:
    return max(numbers)


def without_duplicates(items: list) -> list:
    return list(dict.fromkeys(items))


def reverse_list(items: list) -> list:
    return items[::-1]


def every_second(items: list) -> list:
    return items[::2]


def count_positive(numbers: list) -> int:
    return sum(number > 0 for number in numbers)


def mean(numbers: list) -> float:
    return sum(numbers) / len(numbers) if numbers else 0


def flatten(rows: list) -> list:
    return [item for row in rows for item in row]


def squares(limit: int) -> list:
    return [number * number for number in range(1, limit + 1)]


def index_of(items: list, item) -> int:
    return items.index(item) if item in items else -1


def rotate(items: list) -> list:
    return items[1:] + items[:1]


def second_smallest(numbers: list) -> int:
    return sorted(set(numbers))[1]


def all_equal(items: list) -> bool:
    return len(set(items)) <= 1


def running_sum(numbers: list) -> list:
    return [sum(numbers[: place + 1]) for place in range(len(numbers))]


def common_items(first: list, second: list) -> list:
    return [item for item in first if item in second]


def count_words(text: str) -> dict:
    words = text.split()
    return {word: words.count(word) for word in words}


def invert(table: dict) -> dict:
    return {value: key for key, value in table.items()}


def total_price(prices: dict, items: list) -> int:
    return sum(prices.get(item, 0) for item in items)


def keys_above(table: dict, limit: int) -> list:
    return sorted(key for key, value in table.items() if value > limit)


def merge(first: dict, second: dict) -> dict:
    return {**first, **second}


def is_even(number: int) -> bool:
    return number % 2 == 0


def factorial(number: int) -> int:
    return 1 if number == 0 else number * factorial(number - 1)


def digit_sum(number: int) -> int:
    return sum(int(digit) for digit in str(number))


def clamp(number: int, low: int, high: int) -> int:
    return max(low, min(number, high))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, number))


def celsius(fahrenheit: float) -> float:
    return (fahrenheit - 32) * 5 / 9


def power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def count_upper(text: str) -> int:
    return sum(char.isupper() for char in text)


def last_word(text: str) -> str:
    return (text.split() or [""])[-1]


def remove_vowels(text: str) -> str:
    return "".join(char for char in text if char not in "aeiouAEIOU")


def starts_with_vowel(text: str) -> bool:
    return text != "" and text[0].lower() in "aeiou"


def double_chars(text: str) -> str:
    return "".join(char * 2 for char in text)


def sum_odd(numbers: list) -> int:
    return sum(number for number in numbers if number % 2 == 1)


def smallest(numbers: list) -> int:
    return min(numbers)


def last_items(items: list, count: int) -> list:
    return items[-count:] if count else []


def differences(numbers: list) -> list:
    return [after - before for before, after in itertools.pairwise(numbers)]


def multiply_all(numbers: list) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product


def sort_by_length(words: list) -> list:
    return sorted(words, key=len)


def group_by_first(words: list) -> dict:
    groups = {}
    for word in words:
        groups.setdefault(word[0], []).append(word)
    return groups


def best_key(table: dict) -> str:
    return max(table, key=table.get)


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def count_digits(number: int) -> int:
    return len(str(abs(number)))


def divisors(number: int) -> list:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
