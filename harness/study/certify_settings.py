"""What a study says of the certification of its networks."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from harness.evaluation.certified import Smoothing, largest_radius
from harness.settings import Count, Mistakes, Settings, distinct

_Radius = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CertifySpec(Settings):
    """Certified l2 radii of the networks smoothed with noise of one sd for all images: docs/certified.md."""

    noise_sd: _Radius = Field(0.25, description="standard deviation of the noise, in units of pixel values")
    selection_draws: Count = Field(100, description="noisy copies that the class is chosen by (n0)")
    certification_draws: Count = Field(1000, description="fresh ones that its share is bounded by (n)")
    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.001, description="probability that a radius is too large, for each image"
    )
    radii: Annotated[tuple[_Radius, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        (0.1, 0.25, 0.5), description="l2 radii at which tables give the certified accuracy"
    )
    images: Count | None = Field(
        None, description="test images that are certified at most, evenly from all; all unless given"
    )
    networks: Annotated[tuple[str, ...], AfterValidator(distinct)] | None = Field(
        None, description="networks that are certified; those of the white box unless given"
    )
    sandwich: Annotated[int, Field(ge=0)] = Field(
        60, description="of the certified images, those whose smoothed network is attacked as well; 0: none"
    )

    @model_validator(mode="after")
    def _reaches_a_radius(self) -> Self:
        most = largest_radius(self.noise_sd, self.certification_draws, self.alpha)
        if most < min(self.radii):
            raise Mistakes(
                [
                    (
                        "certification_draws",
                        f"{self.certification_draws} draws certify an l2 radius of {most:.3g} at most "
                        f"(noise_sd * Phi^-1(alpha^(1/n))), below the smallest of 'radii', "
                        f"{min(self.radii):g}: more draws, a larger noise_sd or smaller radii",
                    )
                ]
            )
        return self

    @property
    def smoothing(self) -> Smoothing:
        return Smoothing(self.noise_sd, self.selection_draws, self.certification_draws, self.alpha)
