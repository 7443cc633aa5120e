"""Quick start: an OT-2 that mixes three colours, as one task that can be called from anywhere.

    python quickstart.py

Runs as it stands, with or without a robot, in any Python that has opentrons: simulated, unless OT2_AGENT_MODE
says otherwise. On the deck: a 96-well plate in 1, inks in B1, B2 and B3 of a tube rack in 3, 300 uL tips in 9.
"""

from typing import Annotated

from ot2_agent import DeviceServer, Param, Refuse, current_run, ot2, task

protocol = ot2.protocol_context("2.13")  # one per process; simulated, emulated or real, as the agent says
plate = protocol.load_labware("corning_96_wellplate_360ul_flat", 1)
inks = protocol.load_labware("opentrons_6_tuberack_falcon_50ml_conical", 3)
tips = protocol.load_labware("opentrons_96_tiprack_300ul", 9)
pipette = protocol.load_instrument("p300_single_gen2", "right", tip_racks=[tips])

Volume = Annotated[float, Param(ge=0, le=300, unit="uL")]


@task(timeout_s=300)
def mix_color(R: Volume, Y: Volume, B: Volume, mix_well: ot2.Well96) -> str:
    """Mix red, yellow and blue in one well."""
    if R + Y + B > 300:
        raise Refuse("R + Y + B must be at most 300 uL")  # before anything moved: the run is `rejected`
    run = current_run()
    protocol.home()
    for n, (tube, volume) in enumerate({"B1": R, "B2": Y, "B3": B}.items(), 1):
        run.checkpoint()  # a cancel lands here
        if volume:  # to opentrons, a volume of 0 means "as much as fits"
            pipette.pick_up_tip(tips[tube])
            pipette.transfer(volume, inks[tube], plate[mix_well], new_tip="never")
            pipette.return_tip()
        run.progress(n / 3, f"{tube} added")
    return f"mixed in {mix_well}"


if __name__ == "__main__":
    DeviceServer().run()
