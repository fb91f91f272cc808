"""What LangChain's ChatOpenAI makes of a relay; runs in an environment of its own and prints one JSON object."""

import asyncio
import json
import os
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Forecast(BaseModel):
    """The weather."""

    city: str
    degrees: int = Field(description="Celsius")


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@tool
def get_time(city: str) -> str:
    """Time in a city."""
    return f"noon in {city}"


def model(**options: Any) -> ChatOpenAI:
    known = {
        "base_url": os.environ["RELAY_URL"],
        "api_key": os.environ["RELAY_KEY"],
        "model": os.environ["RELAY_MODEL"],
    }
    return ChatOpenAI(**{"max_retries": 0, **known, **options})


def whole() -> dict[str, Any]:
    answer = model(temperature=0).invoke([SystemMessage("Be brief."), HumanMessage("hello relay")])
    reported = answer.response_metadata
    return {"text": answer.content, "usage": answer.usage_metadata, "finish": reported["finish_reason"]}


def streamed() -> dict[str, Any]:
    chunks = list(
        model(temperature=0, stream_usage=True).stream([SystemMessage("Be brief."), HumanMessage("hello relay")])
    )
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined = joined + chunk
    return {"text": joined.content, "usage": joined.usage_metadata}


def tools() -> dict[str, Any]:
    known = {one.name: one for one in (get_weather, get_time)}
    bound = model().bind_tools(list(known.values()))
    messages: list[Any] = [HumanMessage("Please get_weather and get_time")]
    first = bound.invoke(messages)
    messages.append(first)
    messages += [
        ToolMessage(known[call["name"]].invoke(call["args"]), tool_call_id=call["id"]) for call in first.tool_calls
    ]
    return {
        "calls": [[call["name"], call["args"]] for call in first.tool_calls],
        "text": bound.invoke(messages).content,
    }


def structured() -> dict[str, Any]:
    found = {}
    for method in ("json_schema", "function_calling"):
        answer = model().with_structured_output(Forecast, method=method).invoke("hello")
        found[method] = answer.model_dump()
    return found


def responses() -> dict[str, Any]:
    answer = model(use_responses_api=True).invoke("hello relay")
    return {"text": answer.text if isinstance(answer.text, str) else answer.text(), "usage": answer.usage_metadata}


async def at_once() -> list[str]:
    answers = await asyncio.gather(*(model().ainvoke(f"number-{at}") for at in range(4)))
    return [str(answer.content).split()[2] for answer in answers]


def refused() -> str:
    try:
        model(api_key="sk-relay-nobody").invoke("hello")
    except Exception as error:
        return type(error).__name__
    return "nothing"


print(
    json.dumps(
        {
            "whole": whole(),
            "streamed": streamed(),
            "tools": tools(),
            "structured": structured(),
            "responses": responses(),
            "at_once": asyncio.run(at_once()),
            "refused": refused(),
        }
    )
)
