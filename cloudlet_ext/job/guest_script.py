# SPDX-License-Identifier: Apache-2.0
"""The script that gives a resumed guest its clock and its addresses, run in the guest by whatever shell it has.

Where the network hands out the addresses, whoever configures the card in the guest is made to ask for them, so that the
lease is renewed later on, too. Where it does not, or nobody asked, the addresses are set by ``ip``, and the captured
ones do not come back. What somebody said of success is not believed: the card is looked at.
"""

from __future__ import annotations

from cloudlet_ext.job.cards import Card

CLOCK_FAILED, ADDRESS_FAILED = 1, 2
"""Bits of the exit status."""

LEASE_S = 8

_SCRIPT = r"""
# $1: the time; $2: so many seconds a lease may take. Then for each card its captured MAC, its own MAC, MTU, IPv4
# gateway, IPv6 gateway, the addresses that the network hands out, and those that it does not.
PATH=$PATH:/usr/sbin:/sbin
failed=0 number=0
date -u -s "@$1" >/dev/null || failed=1
lease_s=$2
shift 2

has() { command -v "$1" >/dev/null 2>&1; }

find_card() {
    for path in /sys/class/net/*; do
        # A bridge has the MAC of a card in it.
        [ -e "$path/device" ] && read -r known <"$path/address" || continue
        [ "$known" = "$1" ] || continue
        card=${path##*/}
        return
    done
    echo "no network card has the address $1" >&2
    return 1
}

set_card() {
    # Before the new MAC: who gets a lease for that may be quick.
    ip addr flush dev "$card" scope global
    if ! ip link set dev "$card" address "$1" 2>/dev/null; then
        # Not every driver can while the card is in use.
        ip link set dev "$card" down
        ip link set dev "$card" address "$1" || return 1
    fi
    [ -z "$2" ] || ip link set dev "$card" mtu "$2"
    ip link set dev "$card" up
    # The link-local address comes of the MAC; with a new one the guest asks for routers again.
    switch=/proc/sys/net/ipv6/conf/$card/disable_ipv6
    [ "$(cat "$switch" 2>/dev/null)" = 0 ] || return 0
    echo 1 >"$switch" && echo 0 >"$switch"
}

manager_has_it() {
    has nmcli || return 1
    case $(nmcli -g GENERAL.STATE device show "$card" 2>/dev/null) in
        "" | "10 "* | "20 "* | "30 "*) return 1 ;;
    esac
}

ifupdown_has_it() { has ifquery && ifquery "$card" >/dev/null 2>&1; }

# Have whoever configures the card ask the network for its addresses.
ask_network() {
    if manager_has_it; then
        # It asks again only where something has changed.
        nmcli device modify "$card" ipv4.method disabled ipv4.addresses "" ipv4.gateway "" >/dev/null
        nmcli device modify "$card" ipv4.method auto >/dev/null
        return
    elif has networkctl && { networkctl renew "$card" || networkctl reconfigure "$card"; } >/dev/null 2>&1; then
        return
    elif ifupdown_has_it; then
        ifdown --force "$card" >/dev/null 2>&1
        ifup "$card" >/dev/null 2>&1 &
    elif has dhclient; then
        stop_clients
        dhclient -nw "$card" >/dev/null 2>&1
    elif has udhcpc; then
        stop_clients
        udhcpc -i "$card" -b >/dev/null 2>&1 &
    fi
}

# One that goes on would bring back the captured addresses, or take the new ones away when its old lease ends.
stop_clients() {
    stopped=
    for client in dhclient dhcpcd udhcpc; do
        for process in $(pidof "$client"); do
            case " $(tr '\0' ' ' <"/proc/$process/cmdline") " in
                *" $card "*) kill "$process" && stopped=1 ;;
            esac
        done
    done 2>/dev/null
    [ -z "$stopped" ] || sleep 1
}

# The network hands out nothing: nobody shall ask it, or bring back what was captured.
keep_quiet() {
    if manager_has_it; then
        own=$(echo $(ipv4 "$1"))
        [ -n "$own" ] || return
        nmcli device modify "$card" ipv4.method manual ipv4.addresses "$own" ipv4.gateway "$2" >/dev/null
        return
    fi
    ! ifupdown_has_it || ifdown --force "$card" >/dev/null 2>&1
    stop_clients
    ip link set dev "$card" up
}

ipv4() {
    for address in $1; do
        case $address in *:*) ;; *) echo "$address" ;; esac
    done
}

# Which of these the card has not.
absent() {
    shown=$(ip -o addr show dev "$card" 2>/dev/null)
    for address in $1; do
        case $shown in *" ${address%/*}/"*) ;; *) echo "$address" ;; esac
    done
}

wait_for() {
    until=$(($(date +%s) + $2))
    while [ -n "$(absent "$1")" ] && [ "$(date +%s)" -lt "$until" ]; do
        sleep 0.2 2>/dev/null || sleep 1
    done
}

# Set what the card has not: its addresses $1, and its way out by the gateways $2 and $3.
set_addresses() {
    missing=$(absent "$1")
    metric=$((100 * number))
    if [ -n "$(ipv4 "$missing")" ]; then
        ip -4 addr flush dev "$card" scope global
        for address in $(ipv4 "$1"); do ip -4 addr add "$address" brd + dev "$card"; done
        [ -z "$2" ] || ip -4 route replace default via "$2" dev "$card" metric "$metric"
    fi
    for address in $missing; do
        case $address in
            *:*)
                ip -6 addr add "$address" dev "$card" nodad 2>/dev/null || ip -6 addr add "$address" dev "$card"
                [ -z "$3" ] || ip -6 route replace default via "$3" dev "$card" metric "$metric"
                ;;
        esac
    done
}

while [ $# -ge 7 ]; do
    number=$((number + 1))
    if { find_card "$1" || find_card "$2"; } && set_card "$2" "$3"; then
        if [ -n "$6" ]; then
            ask_network
            wait_for "$6" "$lease_s"
        else
            keep_quiet "$7" "$4"
        fi
        set_addresses "$6 $7" "$4" "$5"
        [ -z "$(absent "$6 $7")" ] || failed=$((failed | 2))
    else
        failed=$((failed | 2))
    fi
    shift 7
done
exit $failed
"""


def command(now_s: float, cards: list[Card]) -> list[str]:
    """The program and its arguments. Nothing of what is told about the cards is part of the script's text."""
    arguments = [f"{now_s:.3f}", str(LEASE_S)]
    for card in cards:
        handed_out, others = card.handed_out, card.fixed
        lists = (" ".join(str(one.interface) for one in part) for part in (handed_out, others))
        mtu = str(card.mtu or "")
        arguments += [card.captured_mac, card.mac, mtu, card.gateway(4), card.gateway(6), *lists]
    return ["/bin/sh", "-c", _SCRIPT, "sh", *arguments]
