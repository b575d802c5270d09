from pathlib import Path

from ztrooted.guard.governed import Gate

gate = Gate.from_environment()


@gate.governed(workflow="reports")
def count_words(path: str) -> int:
    return len(Path(path).read_text().split())


if __name__ == "__main__":
    print(count_words(__file__))
