// What the stories with matrix-js-sdk share: clients, patience, and telling what has worked.
//
// A story runs against the server whose address is its last argument (or several, the last ones). Each step is told on
// standard output when it has worked; the first that does not ends the script with an error.

import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";

export const PASSWORD = "correct horse battery staple";
const PATIENCE_MS = Number(process.env.STORY_PATIENCE_MS ?? 30_000);

const nothing = () => {};
const logger = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing, getChild: () => logger };

/** A client that says nothing but what the story says. */
export function createClient(url, options = {}) {
    return sdk.createClient({ baseUrl: url, logger, ...options });
}

export function done(step) {
    console.log(`done: ${step}`);
}

/** Wait until `look()` gives something. */
export async function until(what, look) {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > deadline) throw new Error(`never came: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
}

export async function refused(work, errcode) {
    try {
        await work();
    } catch (error) {
        assert.equal(error.errcode, errcode, error);
        return;
    }
    assert.fail(`not refused: ${errcode}`);
}

/** Make an account without a device. */
export async function signUp(url, name) {
    const stranger = createClient(url);
    let session;
    await assert.rejects(
        stranger.registerRequest({ username: name, password: PASSWORD }),
        (error) => {
            session = error.data.session;
            return error.httpStatus === 401 && error.data.flows.some((flow) => flow.stages.includes("m.login.dummy"));
        },
    );
    await stranger.registerRequest({
        username: name,
        password: PASSWORD,
        auth: { type: "m.login.dummy", session },
        inhibit_login: true,
    });
}

/** Make a device of an account, and return what a client of it is made with. */
export async function logIn(url, name, { password = PASSWORD, deviceName = "first" } = {}) {
    const login = await createClient(url).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: name },
        password,
        initial_device_display_name: deviceName,
    });
    return { userId: login.user_id, deviceId: login.device_id, accessToken: login.access_token };
}

export async function start(client, options) {
    await client.startClient(options);
    await until("the first sync", () => ["PREPARED", "SYNCING"].includes(client.getSyncState()));
}
