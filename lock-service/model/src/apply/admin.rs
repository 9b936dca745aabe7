//! Step 3, what concerns the whole cluster: founding, restoring, settings, the model version.

use super::Transition;
use crate::ring::Ring;
use crate::state::{Due, DueItem, Founding};
use crate::{ClusterId, LeaseEnd, LeaseId, ModelVersion, Refusal, Response, Settings, Token};

impl Transition<'_> {
    pub(super) fn found(
        &mut self,
        cluster_id: ClusterId,
        token_floor: Token,
        settings: &Settings,
        model_version: ModelVersion,
    ) -> Result<Response, Refusal> {
        if let Some(founding) = self.table.founding {
            return Ok(Response::Founded {
                cluster_id: founding.cluster_id,
                repeated: true,
            });
        }
        settings.validate().map_err(Refusal::InvalidSettings)?;
        check_floor(token_floor)?;
        self.table.founding = Some(Founding {
            cluster_id,
            model_version,
        });
        self.table.settings = settings.clone();
        self.table.loosest_settings = settings.clone();
        self.table.token_counter = token_floor;
        Ok(Response::Founded {
            cluster_id,
            repeated: false,
        })
    }

    pub(super) fn change_settings(&mut self, settings: &Settings) -> Result<Response, Refusal> {
        settings.validate().map_err(Refusal::InvalidSettings)?;
        self.table.loosest_settings = self.table.loosest_settings.loosest(settings);
        self.table.settings = settings.clone();
        Ok(Response::SettingsChanged)
    }

    pub(super) fn raise_model_version(
        &mut self,
        model_version: ModelVersion,
    ) -> Result<Response, Refusal> {
        let Some(founding) = &mut self.table.founding else {
            return Err(Refusal::Unfounded);
        };
        let current = founding.model_version;
        if model_version < current {
            return Err(Refusal::ModelVersionGoesBack {
                current: current.into(),
                given: model_version.into(),
            });
        }
        founding.model_version = model_version;
        Ok(Response::ModelVersionRaised {
            model_version,
            repeated: model_version == current,
        })
    }

    /// All of the old cluster's leases end without holding anything back: one hold over everything
    /// takes the place of all that could be known of each.
    pub(super) fn restore(
        &mut self,
        cluster_id: ClusterId,
        token_floor: Token,
        hold_ms: u64,
    ) -> Result<Response, Refusal> {
        check_floor(token_floor)?;
        let Some(founding) = &mut self.table.founding else {
            return Err(Refusal::Unfounded);
        };
        let now = self.table.clock;
        let repeated = founding.cluster_id == cluster_id;
        if !repeated {
            founding.cluster_id = cluster_id;
            self.table.token_counter = self.table.token_counter.max(token_floor);
            // Positions of another cluster mean nothing in this one.
            self.table.events = Ring::after(self.table.last_position);
            let leases: Vec<LeaseId> = self.table.leases.keys().copied().collect();
            for id in leases {
                self.end_lease(id, LeaseEnd::Restored, true);
            }
            if let Some(before) = self.table.held_until.take() {
                self.table.dues.remove(&Due::new(before, DueItem::Hold));
            }
            if hold_ms > 0 {
                let until = now.plus_ms(hold_ms);
                self.table.held_until = Some(until);
                self.table.dues.insert(Due::new(until, DueItem::Hold), ());
            }
        }
        let held_until = self.table.held_until();
        Ok(Response::Restored {
            cluster_id,
            token_counter: self.table.token_counter,
            hold_ms: held_until.map_or(0, |until| now.ms_until(until)),
            repeated,
        })
    }
}

fn check_floor(given: Token) -> Result<(), Refusal> {
    if given > Token::MAX {
        Err(Refusal::TokenFloorTooHigh { given })
    } else {
        Ok(())
    }
}
