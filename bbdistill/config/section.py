"""What every table of a config has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    # Inputs stay out of pydantic's own messages: what stands where a key's name should be may be the key.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )
