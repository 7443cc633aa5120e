"""The original kit's colour-mixing job: mix inks in a well, hold a light sensor over it, put the sensor back.

    python device_example.py                                  (simulated)
    ot2-agent serve device_example.py --python PY --mode emulated

On the deck: a 96-well plate in 1, a rack of 15 mL vials in 3 (red, yellow and blue in B1, B2 and B3, waste in
A1), 300 uL tips in 9, a light sensor on a tip adapter in A2 of a rack in 10. Both racks are defined in
`labware/`; put the measures of your own there.
"""

from pathlib import Path
from typing import Annotated, Any

from ot2_agent import DeviceServer, Param, Refuse, current_run, ot2, task

INKS = {"R": "B1", "Y": "B2", "B": "B3"}
"""Colour -> its vial, and the tip that is kept for it."""

MEASURING_HEIGHT_MM = -1.3
"""Of the sensor, over the top of the well."""

SENSOR_RELEASE_MM = -80.0
"""Where the adapter, which is as long, stands on the bottom of its place: below the top of the rack."""

Volume = Annotated[int, Param(ge=0, le=300, unit="uL")]

protocol = ot2.protocol_context("2.13", labware=Path(__file__).parent / "labware")
plate = protocol.load_labware("corning_96_wellplate_360ul_flat", 1)
inks = protocol.load_labware("ink_rack_6x15ml", 3)
tips = protocol.load_labware("opentrons_96_tiprack_300ul", 9)
sensor_rack = protocol.load_labware("color_sensor_rack", 10)
pipette = protocol.load_instrument("p300_single_gen2", "right", tip_racks=[tips])

sensor_over: str | None = None
"""The well that the sensor is over, None while it is in its rack."""

homed = False


@task(timeout_s=600)
def mix_color(R: Volume, Y: Volume, B: Volume, mix_well: ot2.Well96) -> str:
    """Mix red, yellow and blue ink in one well.

    Args:
        R: red
        Y: yellow
        B: blue
    """
    if R + Y + B > 300:
        raise Refuse(f"R + Y + B is {R + Y + B} uL; a tip and a well hold at most 300.")
    if sensor_over is not None:
        raise Refuse("The pipette holds the sensor. Run move_sensor_back first.")
    run = current_run()
    be_homed()
    volumes = {"R": R, "Y": Y, "B": B}
    for done, (color, vial) in enumerate(INKS.items()):
        run.progress(done / len(INKS), f"{color}: {volumes[color]} uL")
        if volumes[color]:  # to opentrons, a volume of 0 means "as much as fits"
            add_ink(vial, volumes[color], mix_well)
    run.progress(1.0, "mixed")
    return f"mixed in {mix_well}"


def add_ink(vial: str, volume: int, well: str) -> None:
    """Bring one ink to a well, with the tip that is kept for it."""
    pipette.pick_up_tip(tips[vial])
    pipette.aspirate(volume, inks[vial])
    pipette.dispense(volume, plate[well])
    pipette.blow_out(inks["A1"].top(z=-5))
    pipette.drop_tip(tips[vial])


@task(effects="motion", timeout_s=300)
def move_sensor_to_measurement_position(mix_well: ot2.Well96) -> str:
    """Pick up the light sensor and hold it over a well."""
    global sensor_over
    if sensor_over is not None:
        raise Refuse(f"The sensor is over {sensor_over} already. Run move_sensor_back first.")
    be_homed()
    sensor_over = mix_well
    pipette.pick_up_tip(sensor_rack["A2"])
    pipette.move_to(plate[mix_well].top(z=MEASURING_HEIGHT_MM))
    return f"sensor over {mix_well}"


@task(effects="motion", timeout_s=300)
def move_sensor_back() -> str:
    """Put the light sensor back into its rack."""
    global sensor_over
    if sensor_over is None:
        raise Refuse("The pipette does not hold the sensor.")
    pipette.drop_tip(sensor_rack["A2"].top(z=SENSOR_RELEASE_MM))
    sensor_over = None
    return "sensor in its rack"


@task(effects="motion", timeout_s=120)
def home_robot() -> str:
    """Move every axis to its home position."""
    global homed
    protocol.home()
    homed = True
    return "homed"


@task(effects="none", timeout_s=10)
def get_robot_status() -> dict[str, Any]:
    """What this device knows of itself; moves nothing."""
    return {
        "mode": ot2.mode(),
        "opentrons": ot2.versions()["opentrons"],
        "pipette": pipette.name,
        "homed": homed,
        "tip_attached": pipette.has_tip,
        "sensor_over": sensor_over,
    }


def be_homed() -> None:
    """A robot that was just switched on, or stopped, does not know where it is."""
    if not homed:
        home_robot()


if __name__ == "__main__":
    DeviceServer().run()
