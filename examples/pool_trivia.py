"""Nine trivia questions over three warm workers. Runs anywhere: the workers play a script instead of asking a model.

    python examples/pool_trivia.py

With a real model: `backend=ClaudeBackend()` and `system_prompt="You are a {role}. Answer in one sentence."`.
"""

from __future__ import annotations

import asyncio

from tollboard.backends.scripted import ScriptedBackend
from tollboard.pool.pool import Pool
from tollboard.pool.records import PoolResults

ANSWERS = {
    "capital of Australia": "Canberra.",
    "largest planet": "Jupiter.",
    "speed of light": "About 300,000 km/s.",
    "author of 'Emma'": "Jane Austen.",
    "boiling point of water": "100 °C at sea level.",
    "longest river in Africa": "The Nile.",
    "chemical symbol of iron": "Fe.",
    "year of the first moon landing": "1969.",
    "number of strings on a violin": "Four.",
}
SCRIPT = [{"when": subject, "text": answer} for subject, answer in ANSWERS.items()]
QUESTIONS = [f"What is the {subject}?" for subject in ANSWERS]


async def main() -> PoolResults:
    async with Pool.start(3, role="trivia expert", backend=ScriptedBackend(), script=SCRIPT) as pool:
        await pool.submit_many(QUESTIONS)
        await pool.wait_for_all()
        return pool.results()


if __name__ == "__main__":
    for worker in asyncio.run(main()).by_worker.values():
        print(f"{worker.worker}: {worker.ok} answered, {worker.failed} failed")
        for result in worker.results:
            print(f"    {result.prompt:<45} {result.text or result.error}")
